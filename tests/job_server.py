"""A Ray cluster of its own with the job server, behind a token, for `eim submit` and `ray job`."""

import contextlib
import dataclasses
import json
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import REPOSITORY
from tests.processes import family, kill

_RAY = Path(sys.executable).parent / "ray"
_HOST = "127.0.0.1"
_START_SECONDS = 180
_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
"""Other clusters of this machine have the usual ones."""
_CPUS = 2


@dataclasses.dataclass(frozen=True)
class JobServer:
    """Where it listens, and what a process needs in its environment to use it."""

    address: str
    environment: Mapping[str, str]
    workers: tuple[int, ...] = ()
    """The process of each worker node, whose family is all of the node."""

    def job(self, command: str, *arguments: str | Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND`, at this server and from the repository's root."""
        return self.run(_RAY, "job", command, "--address", self.address, *arguments, seconds=seconds)

    def submit(self, recipe: Path, *options: str | Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """`eim submit RECIPE`, at this server, with the code of this checkout."""
        line = [sys.executable, "-m", "jobs.submit", recipe, "--address", self.address, *options]
        return self.run(*line, seconds=seconds)

    def nodes(self) -> list[dict[str, Any]]:
        """Ray's own account of the nodes, dead ones too: what `ray list nodes` shows."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.address}/api/v0/nodes", headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]["result"]["result"]

    def run(self, *line: str | Path, seconds: float) -> subprocess.CompletedProcess[str]:
        """A command from the repository's root, with the token in its environment."""
        return subprocess.run(
            line, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds
        )


@contextlib.contextmanager
def start(workers: int = 0, settings: Mapping[str, str] | None = None) -> Iterator[JobServer]:
    """A head until the block ends: with two CPUs, or without any and with as many worker nodes of two CPUs.

    settings: of Ray, for the environment. Raises AssertionError where it does not come up.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    path = {"PATH": f"{_RAY.parent}:{os.environ['PATH']}"}
    environment = {**kept, **token, **path, **(settings or {})}
    folder = Path(tempfile.mkdtemp(prefix="eim-ray-"))  # short: the paths of Ray's sockets have a limit
    port, dashboard, client = (_free_port() for _ in range(3))
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    head += [f"--temp-dir={folder}", f"--num-cpus={0 if workers else _CPUS}"]
    worker = [f"--address={_HOST}:{port}", f"--num-cpus={_CPUS}"]
    address = f"http://{_HOST}:{dashboard}"
    try:
        with contextlib.ExitStack() as stack:
            _await(address, stack.enter_context(_node(head, environment, folder / "head.log")), folder / "head.log")
            server = JobServer(address, environment)
            for index in range(workers):  # one after another: of two that start together on one host, one may fail
                log = folder / f"worker-{index}.log"
                node = stack.enter_context(_node(worker, environment, log))
                _await_nodes(server, 2 + index, node, log)
                server = dataclasses.replace(server, workers=(*server.workers, node.pid))
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _node(options: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start` with these options until the block ends; no process of it is left."""
    command: list[str | Path] = [_RAY, "start", "--block", f"--node-ip-address={_HOST}", *_PORTS, *options]
    with open(log, "w") as file:
        node = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield node
    finally:
        kill(family(node.pid))  # its own end would drain for half a minute
        node.wait()


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


def _await_nodes(server: JobServer, count: int, newest: subprocess.Popen[bytes], log: Path) -> None:
    deadline, alive = time.monotonic() + _START_SECONDS, 0
    while alive < count:
        assert newest.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"{alive} of {count} nodes came up"
        time.sleep(0.3)
        with contextlib.suppress(OSError):  # on a busy machine a head that has just come up may hang up
            alive = sum(node["state"] == "ALIVE" for node in server.nodes())


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_HOST, 0))
        return one.getsockname()[1]
