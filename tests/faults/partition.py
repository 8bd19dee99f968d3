"""A network partition between two Ray nodes, each in a network namespace of its own: the link between them goes down.

The head with a few CPUs and the driver live on the near side, a worker node on the far side. Where the link stays down
until Ray thinks the far node dead, its workers go on meanwhile and write: real zombies. Needs root and `ip`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage import open_store
from tests import REPOSITORY
from tests.faults.driver import start_driver
from tests.faults.kills import put_images, write_recipe
from tests.faults.outcome import NotPossible, Outcome, outcome

_RAY = Path(sys.executable).parent / "ray"
_NEAR, _FAR = "10.199.7.1", "10.199.7.2"
_WIRE = "wire0"
_ADDRESS = f"{_NEAR}:6399"
_PATIENCE = 300.0
_IMAGES, _SECONDS_AN_EDIT = 150, 0.1
_SHORT_SECONDS = 4.0
_ZOMBIE_SECONDS = 10.0
"""How long the far workers go on after their node is thought dead."""
_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "8",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # a node that is stopped at the end has no work to wait for
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex,
}
"""A node that does not answer for some 16 seconds is dead. The token is there from the start: what asks for a head that
makes its own asks in vain for ever, where it began first."""


@dataclass(frozen=True)
class _Hosts:
    """Two joined network namespaces, by name."""

    near: str
    far: str

    def cut(self) -> None:
        """Take the far end of the link down; the near end only sees that no packet comes."""
        _ip("-n", self.far, "link", "set", _WIRE, "down")

    def heal(self) -> None:
        """Take it up again."""
        _ip("-n", self.far, "link", "set", _WIRE, "up")
        _ip("-n", self.far, "route", "replace", "default", "via", _NEAR)  # goes with the link


def short_partition(folder: Path) -> Outcome:
    """A partition that the health check bears."""
    return _partitioned(folder, until_dead=False)


def long_partition(folder: Path) -> Outcome:
    """A partition that outlasts the health check."""
    return _partitioned(folder, until_dead=True)


def _partitioned(folder: Path, until_dead: bool) -> Outcome:
    """Part two nodes in the middle of a job and join them again; where the job ends badly the same command is run.

    Raises NotPossible where the machine lets us make no network namespaces.
    """
    _check_possible()
    put_images(folder / "in", range(_IMAGES))
    recipe, output = write_recipe(folder, editors=3), open_store(f"{folder}/out")
    with _two_hosts() as hosts, _ray(hosts):
        inside = _in(hosts.near)
        first = start_driver(recipe, _SECONDS_AN_EDIT, address=_ADDRESS, extra=_SETTINGS, inside=inside)
        deadline = time.monotonic() + _PATIENCE
        while not output.keys("edits"):
            assert first.poll() is None, first.communicate()[1][-2000:]
            assert time.monotonic() < deadline, "no row was written in five minutes"
            time.sleep(0.3)
        hosts.cut()
        started = time.monotonic()
        if until_dead:
            _await(hosts, _FAR, alive=False)
        time.sleep(_ZOMBIE_SECONDS if until_dead else _SHORT_SECONDS)
        assert until_dead or first.poll() is None, "the job ended before the link came back"
        hosts.heal()
        parted = time.monotonic() - started
        code, runs = _ended(first), 1
        while code != 0:
            assert runs < 4, f"not complete after {runs} runs"
            again = start_driver(recipe, address=_ADDRESS, extra=_SETTINGS, inside=inside)
            code, runs = _ended(again), runs + 1
    dead = "until the far node was dead and for 10 s more" if until_dead else "shorter than the health check bears"
    note = f"link down for {parted:.0f} s, {dead}; completed by run {runs}"
    return outcome("a partition between two nodes", f"{folder}/out", note=note)


def _check_possible() -> None:
    try:
        with _two_hosts():
            return
    except FileNotFoundError as error:
        raise NotPossible(f"{error.filename} is not there") from None
    except subprocess.CalledProcessError as error:
        raise NotPossible(f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}") from None


def _ended(driver: subprocess.Popen[str]) -> int:
    try:
        driver.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:  # as an operator would
        driver.kill()
        driver.communicate()
    return driver.returncode


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _in(host: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", host)


@contextlib.contextmanager
def _two_hosts() -> Iterator[_Hosts]:
    name = uuid.uuid4().hex[:6]
    hosts = _Hosts(f"eim{name}n", f"eim{name}f")
    try:
        for host in (hosts.near, hosts.far):
            _ip("netns", "add", host)
        peer = ("peer", "name", _WIRE, "netns", hosts.far)
        _ip("link", "add", _WIRE, "netns", hosts.near, "type", "veth", *peer)
        for host, address, other in ((hosts.near, _NEAR, _FAR), (hosts.far, _FAR, _NEAR)):
            _ip("-n", host, "addr", "add", f"{address}/30", "dev", _WIRE)
            for device in ("lo", _WIRE):
                _ip("-n", host, "link", "set", device, "up")
            _ip("-n", host, "route", "add", "default", "via", other)  # a process learns its address by a route
        yield hosts
    finally:
        for host in (hosts.near, hosts.far):
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", host], capture_output=True)


@contextlib.contextmanager
def _ray(hosts: _Hosts) -> Iterator[None]:
    """A head on the near side, a worker node on the far side."""
    folder = Path(tempfile.mkdtemp(prefix="eim-ray-"))  # short: the paths of Ray's sockets have a limit
    here, there = folder / "t", folder / "far"
    here.mkdir()
    there.mkdir()
    start = [str(_RAY), "start", "--block"]
    head = ["--head", "--port=6399", f"--node-ip-address={_NEAR}", f"--temp-dir={here}", "--num-cpus=1"]
    worker = [f"--address={_ADDRESS}", f"--node-ip-address={_FAR}", "--num-cpus=2"]
    # Hosts of their own have folders of their own: Ray notes a node's address in its session's.
    apart = ["unshare", "--mount", "sh", "-c", f'mount --bind {there} {here} && exec "$@"', "sh"]
    environment = {**os.environ, **_SETTINGS}
    nodes = []
    try:
        for command, host, log in (
            ([*_in(hosts.near), *start, *head, "--include-dashboard=false"], _NEAR, folder / "head.log"),
            ([*_in(hosts.far), *apart, *start, *worker], _FAR, folder / "worker.log"),
        ):
            with open(log, "w") as out:
                nodes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
            try:
                _await(hosts, host, alive=True)
            except subprocess.CalledProcessError as error:
                raise AssertionError(f"{host} did not join: {error.stderr}\n{log.read_text()[-2000:]}") from None
        yield
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            try:
                node.wait(timeout=40)
            except subprocess.TimeoutExpired:
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _await(hosts: _Hosts, host: str, alive: bool) -> None:
    """Wait until the head says so of a node; raises CalledProcessError after some minutes."""
    watch = [sys.executable, "-m", "tests.faults.partition", host, str(int(alive))]
    command = [*_in(hosts.near), *watch]
    environment = {**os.environ, **_SETTINGS}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)


def _watch(host: str, alive: bool) -> None:
    """Run on the near side: ask the head until it says so."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            nodes = GcsClient(address=_ADDRESS).get_all_node_info(timeout=5).values()
            if alive == any(node.node_manager_address == host and node.state == GcsNodeInfo.ALIVE for node in nodes):
                return
            said = f"{len(nodes)} nodes"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            sys.exit(f"{host} is not {'alive' if alive else 'dead'} after {_PATIENCE:.0f} s: {said}")
        time.sleep(0.5)


if __name__ == "__main__":
    _watch(sys.argv[1], sys.argv[2] == "1")
