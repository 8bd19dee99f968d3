"""A network partition between two Ray nodes: one lives in a network namespace of its own, whose link goes down.

The partitioned node is thought dead while its workers go on and write: real zombies. Needs root and `ip`.
"""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo

from tests.faults.cluster import start_driver
from tests.faults.kills import put_images, write_recipe
from tests.faults.outcome import Outcome, outcome

_RAY = Path(sys.executable).parent / "ray"
_HERE, _THERE = "10.199.7.1", "10.199.7.2"
_PORT = 6399  # below those that Ray gives to workers
_START_SECONDS = 90
_IMAGES, _SECONDS_AN_EDIT = 120, 0.1
_HEALTH = {"RAY_health_check_initial_delay_ms": "2000", "RAY_health_check_period_ms": "1000"}
_BEFORE, _DOWN = 4.0, 20.0
"""Seconds of work before the link goes down, and until it comes up again: longer than it takes to be thought dead."""


def possible() -> bool:
    """Whether this machine lets us make network namespaces."""
    name = f"eim-{uuid.uuid4().hex[:6]}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made


def partitioned(folder: Path) -> Outcome:
    """Part two nodes in the middle of a job, join them again; the same command completes the work."""
    put_images(folder / "in", range(_IMAGES))
    recipe = write_recipe(folder)
    with _two_hosts() as (link, inside), _ray(inside):
        first = start_driver(recipe, _SECONDS_AN_EDIT, f"{_HERE}:{_PORT}")
        _await_rows(folder, first)
        time.sleep(_BEFORE)
        assert first.poll() is None, "the job ended before the partition"
        _ip("link", "set", link, "down")
        time.sleep(_DOWN)
        _ip("link", "set", link, "up")
        said = first.communicate(timeout=240)
        runs = 1
        if first.returncode != 0:
            second = start_driver(recipe, 0.0, f"{_HERE}:{_PORT}")
            said = second.communicate(timeout=240)
            runs = 2
            assert second.returncode == 0, said[1][-2000:]
    return outcome("a partition between two nodes", f"{folder}/out", note=f"completed by run {runs}")


def _await_rows(folder: Path, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "out" / "images").is_dir():
        assert driver.poll() is None, driver.communicate()[1][-2000:]
        assert time.monotonic() < deadline, "no image was written in two minutes"
        time.sleep(0.5)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _await_nodes(count: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(ray.exceptions.RaySystemError, ray.exceptions.RpcError):
            known = GcsClient(address=f"{_HERE}:{_PORT}").get_all_node_info(timeout=5)
            if sum(node.state == GcsNodeInfo.ALIVE for node in known.values()) >= count:
                return
        assert time.monotonic() < deadline, f"node {count} did not join"
        time.sleep(1)


@contextlib.contextmanager
def _two_hosts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network namespace joined to this one: the name of our end of the link, and the prefix of commands inside."""
    name = f"eim{uuid.uuid4().hex[:6]}"
    link, peer = f"{name}a", f"{name}b"
    inside = ("ip", "netns", "exec", name)
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", peer)
        _ip("link", "set", peer, "netns", name)
        _ip("addr", "add", f"{_HERE}/30", "dev", link)
        _ip("link", "set", link, "up")
        for words in (("addr", "add", f"{_THERE}/30", "dev", peer), ("link", "set", peer, "up")):
            subprocess.run([*inside, "ip", *words], check=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        yield link, inside
    finally:
        subprocess.run(["ip", "netns", "del", name])
        subprocess.run(["ip", "link", "del", link], capture_output=True)


@contextlib.contextmanager
def _ray(inside: tuple[str, ...]) -> Iterator[None]:
    """A head here, one worker in the namespace, one here."""
    environment = {**os.environ, **_HEALTH, "RAY_USAGE_STATS_ENABLED": "0"}
    start = [_RAY, "start", "--block"]
    join = [*start, f"--address={_HERE}:{_PORT}", "--num-cpus=2"]
    commands = [
        [
            *start,
            "--head",
            f"--port={_PORT}",
            f"--node-ip-address={_HERE}",
            "--num-cpus=0",
            "--include-dashboard=false",
        ],
        [*inside, *join, f"--node-ip-address={_THERE}"],
        [*join, f"--node-ip-address={_HERE}"],
    ]
    nodes = []
    try:
        for count, command in enumerate(commands, 1):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            nodes.append(subprocess.Popen(command, env=environment, **quiet))
            _await_nodes(count)
        yield
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            try:
                node.wait(timeout=20)
            except subprocess.TimeoutExpired:
                node.kill()
