"""A Ray head of its own with the job server, behind a token, for `ray job submit` and `ray job stop`."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_RAY = Path(sys.executable).parent / "ray"
_START_SECONDS = 180


@dataclass(frozen=True)
class JobServer:
    """Where it listens, and what a process needs in its environment to use it."""

    address: str
    environment: Mapping[str, str]

    def job(self, command: str, *arguments: str | Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND`, at this server and from the repository's root."""
        line = [_RAY, "job", command, "--address", self.address, *arguments]
        return subprocess.run(
            line, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds
        )


@contextlib.contextmanager
def start() -> Iterator[JobServer]:
    """A head with two CPUs until the block ends; raises AssertionError where it does not come up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**kept, **token, "PATH": f"{_RAY.parent}:{os.environ['PATH']}"}
    folder = Path(tempfile.mkdtemp(prefix="eim-ray-"))  # short: the paths of Ray's sockets have a limit
    dashboard = _free_port()
    options = [f"--port={_free_port()}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=2"]
    command = [_RAY, "start", "--head", "--block", *options, "--dashboard-agent-listen-port=0"]
    with open(folder / "head.log", "w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _await(address, head, folder / "head.log")
        yield JobServer(address, environment)
    finally:
        head.terminate()
        try:
            head.wait(timeout=40)
        except subprocess.TimeoutExpired:
            head.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _await(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
            return
        except urllib.error.HTTPError as answer:
            assert answer.code == 401, answer  # up, and asks for the token
            return
        except OSError:
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
