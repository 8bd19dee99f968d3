"""A real S3 store for tests: OpenStack Swift with its s3api on loopback, one device, no replication.

`start(root)` writes rings and configuration below `root`, starts the four servers on free ports and waits until
they answer. Objects live in memory where /dev/shm takes user xattrs, as recent kernels do: Swift flushes each PUT to
its device, which takes a disk three times as long. Else below `root`, which needs user xattrs itself (ext4 and xfs
have them).
"""

import contextlib
import getpass
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.exceptions
import botocore.session

KEY, SECRET, REGION = "test:tester", "testing", "us-east-1"
_START_SECONDS = 60
_MEMORY = "/dev/shm"
_KINDS = ("account", "container", "object")
_FILTERS = (
    "catch_errors",
    "gatekeeper",
    "cache",
    "listing_formats",
    "bulk",
    "s3api",
    "tempauth",
    "copy",
    "slo",
    "symlink",
)
_OPTIONS = {
    "cache": {"use": "egg:swift#memcache", "memcache_servers": "127.0.0.1:1"},
    "s3api": {"location": REGION, "s3_acl": "false", "allow_no_owner": "true", "check_bucket_owner": "false"},
    "tempauth": {"user_test_tester": f"{SECRET} .admin"},
}


@dataclass(frozen=True)
class S3Server:
    """A running store and how to reach it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        _client(self.endpoint).create_bucket(Bucket=name)


def _client(endpoint: str) -> "botocore.client.BaseClient":
    return botocore.session.get_session().create_client(
        "s3", REGION, endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _section(name: str, /, **options: object) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""])


def _ring(etc: Path, kind: str, port: int) -> None:
    builder = Path(sys.executable).parent / "swift-ring-builder"
    steps = (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"])
    for step in steps:
        done = subprocess.run([builder, f"{kind}.builder", *step], cwd=etc, capture_output=True, text=True)
        if done.returncode > 1:  # 1 is a warning
            raise RuntimeError(f"swift-ring-builder {step[0]}: {done.stdout}{done.stderr}")


def _configure(root: Path, proxy_port: int, ports: dict[str, int]) -> dict[str, Path]:
    """Rings and one configuration file for each server."""
    etc = root / "etc"
    for folder in (etc, root / "cache"):
        folder.mkdir(parents=True)
    policy = _section("storage-policy:0", name="p0", default="yes")
    (etc / "swift.conf").write_text(_section("swift-hash", swift_hash_path_suffix="tests") + policy)
    common = {"bind_ip": "127.0.0.1", "workers": 0, "swift_dir": etc, "user": getpass.getuser()}
    backend = {
        "devices": root / "devices",
        "mount_check": "false",
        "disable_fallocate": "true",
        "recon_cache_path": root / "cache",
        "log_address": "/nonexistent",
    }
    files = {}
    for kind, port in ports.items():
        _ring(etc, kind, port)
        app = _section("pipeline:main", pipeline=f"{kind}-server") + _section(
            f"app:{kind}-server", use=f"egg:swift#{kind}"
        )
        files[kind] = etc / f"{kind}-server.conf"
        files[kind].write_text(_section("DEFAULT", bind_port=port, **common, **backend) + app)
    filters = [
        _section(f"filter:{name}", **{"use": f"egg:swift#{name}", **_OPTIONS.get(name, {})}) for name in _FILTERS
    ]
    proxy = _section("app:proxy-server", use="egg:swift#proxy", account_autocreate="true")
    order = _section("pipeline:main", pipeline=" ".join([*_FILTERS, "proxy-server"]))
    files["proxy"] = etc / "proxy-server.conf"
    files["proxy"].write_text("".join([_section("DEFAULT", bind_port=proxy_port, **common), order, proxy, *filters]))
    return files


def _wait_until_ready(endpoint: str, servers: dict[str, subprocess.Popen[bytes]], root: Path) -> None:
    client, deadline = _client(endpoint), time.monotonic() + _START_SECONDS
    while True:
        for kind, server in servers.items():
            if server.poll() is not None:
                raise RuntimeError(f"swift-{kind}-server ended early:\n{(root / f'{kind}.log').read_text()[-2000:]}")
        try:
            client.list_buckets()
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the S3 store did not answer within {_START_SECONDS} s: {error}") from error
            time.sleep(0.2)


@contextlib.contextmanager
def _device(root: Path) -> Iterator[None]:
    """root/devices/d1 while the block lasts, in memory where that takes user xattrs."""
    with contextlib.ExitStack() as stack:
        (root / "devices").mkdir(parents=True)
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="eim-s3-", dir=_MEMORY))
            os.setxattr(folder, "user.eim", b"1")
        except OSError:
            (root / "devices" / "d1").mkdir()
        else:
            (root / "devices" / "d1").symlink_to(folder)
        yield


@contextlib.contextmanager
def start(root: Path) -> Iterator[S3Server]:
    """Run a store until the block ends."""
    with _device(root), _servers(root) as server:
        yield server


@contextlib.contextmanager
def _servers(root: Path) -> Iterator[S3Server]:
    proxy_port, *backend_ports = _free_ports(4)
    files = _configure(root, proxy_port, dict(zip(_KINDS, backend_ports, strict=True)))
    servers = {}
    try:
        for kind, file in files.items():
            command = [Path(sys.executable).parent / f"swift-{kind}-server", file]
            with open(root / f"{kind}.log", "wb") as log:
                servers[kind] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        endpoint = f"http://127.0.0.1:{proxy_port}"
        _wait_until_ready(endpoint, servers, root)
        yield S3Server(endpoint)
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
