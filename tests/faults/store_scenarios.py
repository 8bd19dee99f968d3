"""Whole edit jobs with fake operations on a store that fails: what is asked must be what is there, once.

Each scenario takes an empty folder, starts the store and the proxy that it needs, and counts in storage what its run
came to. It raises AssertionError where a fault did not strike, or a run did not end as docs/guarantees.md says.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from pipeline import s3, storage
from pipeline.decode import encode_png
from pipeline.storage import open_store
from tests import s3_server
from tests.faults import s3_proxy
from tests.faults.driver import SHARED, start_driver
from tests.faults.outcome import NotPossible, Outcome, outcome, view_of
from tests.faults.s3_proxy import Rule, S3Proxy

_EDITS = [{"attribute": "smile", "target": "broad smile", "strengths": [-1, 1]}]
_JOB_SECONDS = 300
IMAGES = 24


def _png(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(40, 200, (36, 40, 3), np.uint8))


@dataclass(frozen=True)
class Stage:
    """A place with an input, and how to run jobs on it."""

    root: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Where the jobs write."""
        return f"{self.root}/out"

    def start(self, output: str | None = None, *, own: bool = False) -> "subprocess.Popen[str]":
        """Start the edit job on the Ray that tests share, or on its own: several may run at once then."""
        recipe = {
            "input": {"path": f"{self.root}/in"},
            "output": output or self.output,
            "model": "fake",
            "captioner": "fake",
            "edits": _EDITS,
            "batch": 4,
        }
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        address = None if own else os.environ.get(SHARED)
        through_the_proxy = json.dumps({"runtime_env": {"env_vars": dict(self.environment)}})
        extra = {**self.environment, "RAY_JOB_CONFIG_JSON_ENV_VAR": through_the_proxy} if address else self.environment
        return start_driver(path, address=address, extra=extra)

    def run(self, output: str | None = None) -> dict[str, Any]:
        """A job that must succeed; its summary."""
        return _ended_well(self.start(output))

    def run_refused(self, told: str) -> None:
        """A job that must be refused, with this in its message and without a traceback."""
        _, log = (job := self.start()).communicate(timeout=_JOB_SECONDS)
        assert job.returncode == 2, f"exit {job.returncode}: {log[-2000:]}"
        assert told in log and "Traceback" not in log, f"ended by: {log[-2000:]}"

    def counted(self, fault: str, note: str, **counts: int) -> Outcome:
        """What the output holds, seen without faults."""
        return outcome(fault, self.output, note=note, **counts)


def _ended_well(job: "subprocess.Popen[str]") -> dict[str, Any]:
    answer, log = job.communicate(timeout=_JOB_SECONDS)
    assert job.returncode == 0, log[-4000:]
    return json.loads(answer)


def _fill(root: str) -> None:
    store = open_store(f"{root}/in")
    storage.in_threads(lambda index: store.write(f"{index:03d}.png", _png(index)), range(IMAGES))


@contextlib.contextmanager
def _s3_stage(folder: Path, server: s3_server.S3Server | None = None) -> Iterator[tuple[Stage, S3Proxy]]:
    """An input on S3; jobs reach it through the proxy, this process goes past it."""
    with contextlib.ExitStack() as stack:
        if server is None:
            (folder / "s3").mkdir()
            server = stack.enter_context(s3_server.start(folder / "s3"))
        proxy = stack.enter_context(s3_proxy.start(server, seed=1))
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        s3._client.cache_clear()
        try:
            bucket = f"eim-{os.urandom(8).hex()}"
            server.make_bucket(bucket)
            _fill(f"s3://{bucket}")
            yield Stage(f"s3://{bucket}", folder, proxy.server.environment), proxy
        finally:
            s3._client.cache_clear()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@cache
def _clean_view() -> Mapping[tuple[str, str], tuple[str, str]]:
    """The view of the same job on a disk, where nothing fails; it does not depend on the place."""
    with TemporaryDirectory(prefix="eim-clean-") as folder:
        stage = Stage(folder, Path(folder))
        _fill(stage.root)
        stage.run()
        return view_of(stage.output)


def _struck(proxy: S3Proxy, *faults: str) -> str:
    """The numbers of injected faults; each of these must have struck."""
    assert all(proxy.struck[fault] for fault in faults), proxy.struck
    return ", ".join(f"{count} {fault}" for fault, count in sorted(proxy.struck.items()))


def flaky(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """One request in twenty fails, in five ways; the view is that of a run without faults."""
    with _s3_stage(folder, server) as (stage, proxy):
        faults: tuple[s3_proxy.Fault, ...] = ("internal", "slow_down", "reset", "truncate")
        shares = [Rule(fault, probability=0.0125) for fault in faults]
        proxy.set(Rule("stall", ("GET",), r"/in/", first=1), *shares)
        summary = stage.run()
        # Some answers are lost where no stage tells of it; the run says most of what it bore.
        assert summary["storage_retries"] and not summary["storage_errors"], summary
        note = f"injected {_struck(proxy, 'stall', 'slow_down')} in {proxy.requests.total()} requests"
        proxy.set()
        assert view_of(stage.output) == _clean_view(), "the view is not that of a run without faults"
        return stage.counted("5 % of all requests fail", note)


def expired_credentials(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """Credentials expire in the middle of a run; with fresh ones the same command completes it."""
    with _s3_stage(folder, server) as (stage, proxy):
        proxy.set(Rule("expired", after=60))
        stage.run_refused("refresh the S3 credentials")
        note = f"injected {_struck(proxy, 'expired')}; then the same command"
        proxy.set()
        stage.run()
        return stage.counted("credentials expire", note)


def changed_source(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """An object is replaced between its listing and its GET; the next run edits what it is now."""
    with _s3_stage(folder, server) as (stage, proxy):
        name = f"{stage.root}/in/007.png"
        proxy.set(Rule("call", ("GET",), r"/in/007\.png$", first=1, call=lambda _: storage.write(name, _png(1000))))
        first = stage.run()
        note = f"replaced {_struck(proxy, 'call')}; first run: {first['failures']} failures"
        changed = {value for (source, _), (_, value) in view_of(stage.output).items() if source == "007.png"}
        assert changed == {"VersionChanged"}, changed
        second = stage.run()
        assert (second["new_edits"], second["failures"]) == (2, 0), second
        return stage.counted("an object changes after its listing", note)


def lagging_listing(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """New objects appear in listings only after five seconds; the run ends with all accounted for all the same."""
    with _s3_stage(folder, server) as (stage, proxy):
        proxy.set(listing_lag=5)
        summary = stage.run()
        assert summary["left"] == 0, summary
        return stage.counted("listings lag behind writes", f"hidden {_struck(proxy, 'unlisted')}")


def two_drivers(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """Two drivers run the same recipe on the same output at once; the view is that of one."""
    with _s3_stage(folder, server) as (stage, _):
        for job in [stage.start(own=True), stage.start(own=True)]:
            _ended_well(job)
        assert view_of(stage.output) == _clean_view(), "the view is not that of one run"
        return stage.counted("two drivers on one output", "")


def store_full(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """The store takes no more objects; when it does again the same command completes the run."""
    with _s3_stage(folder, server) as (stage, proxy):
        proxy.set(Rule("full", ("PUT",), r"/out/images/", after=10))
        stage.run_refused("make room and run the same command")
        note = f"injected {_struck(proxy, 'full')}; then the same command"
        proxy.set()
        stage.run()
        return stage.counted("the store is full", note)


def disk_full(folder: Path, server: s3_server.S3Server | None = None) -> Outcome:
    """The output's disk, a real one of a few hundred kB, fills up; with room the same command completes the run.

    Raises NotPossible for others than root, who alone may mount one.
    """
    if os.geteuid() != 0:
        raise NotPossible("only root may mount a small disk")
    stage = Stage(str(folder), folder)
    _fill(stage.root)
    Path(stage.output).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "eim-full", stage.output], check=True)
    try:
        stage.run_refused("make room and run the same command")
        subprocess.run(["mount", "-o", "remount,size=64m", stage.output], check=True)
        stage.run()
        return stage.counted("the disk is full", "a tmpfs of 256 kB, then the same command with room")
    finally:
        subprocess.run(["umount", stage.output], check=True)


SCENARIOS: tuple[tuple[str, Callable[[Path, s3_server.S3Server | None], Outcome]], ...] = (
    ("flaky store", flaky),
    ("expired credentials", expired_credentials),
    ("changed source", changed_source),
    ("lagging listing", lagging_listing),
    ("two drivers", two_drivers),
    ("store full", store_full),
    ("disk full", disk_full),
)
