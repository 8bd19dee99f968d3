"""`python -m tests.faults --out out/faults`: every scenario, and what each came to, as faults.json.

What faults.json tells of scenarios that a call leaves out stays, so that `--only` and `--resume` make one report of
several calls. Exits with 1 where a row was lost or doubled, or a scenario did not end as it should; what this machine
cannot do is told as such, and is no failure.
"""

import contextlib
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests import s3_server
from tests.faults import compactions, device_scenarios, partition, store_scenarios
from tests.faults.cluster import Nodes, nodes
from tests.faults.kills import WINDOWS, kill_in_window, kill_retrying, soak
from tests.faults.late import late_writers
from tests.faults.outcome import NotPossible, Outcome
from tests.faults.stopped_job import ray_job_stop

_FLAKY = "flaky store"
"""The scenario that compares its view with that of a run without faults."""
_SOAK = "kills at random"
_HELD, _FAILED, _NOT_POSSIBLE = "held", "failed", "not possible on this machine"
"""How an outcome begins."""
Scenario = tuple[str, Callable[[Path], Outcome]]


def main(
    out: Annotated[Path, typer.Option(help="where faults.json is written")] = Path("out/faults"),
    kills: Annotated[int, typer.Option(help="of the soak, in all")] = 30,
    seed: Annotated[int, typer.Option(help="of the soak")] = 0,
    only: Annotated[str, typer.Option(help="only scenarios whose name holds this text")] = "",
    resume: Annotated[bool, typer.Option(help="leave out what held already; go on with the soak there is")] = False,
) -> None:
    """Attack whole edit jobs, and count in storage what is lost or doubled."""
    out.mkdir(parents=True, exist_ok=True)
    report = out / "faults.json"
    if not resume and only in _SOAK:
        shutil.rmtree(out / "soak", ignore_errors=True)
    with contextlib.ExitStack() as stack:
        for name, run in _all_scenarios(out, kills, seed, stack):
            held = resume and _held(_found(report).get(name), kills if name == _SOAK else 0)
            if only in name and not held:
                line = _run(name, run)
                found = {**_found(report), name: line}  # read anew: another call may write, too
                report.write_text(json.dumps(_report(list(found.values())), indent=1) + "\n")
    if any(fault["outcome"].startswith(_FAILED) for fault in _found(report).values()):
        raise typer.Exit(1)


def _found(report: Path) -> dict[str, dict[str, Any]]:
    """What earlier calls found, by name."""
    if not report.exists():
        return {}
    return {fault["name"]: fault for fault in json.loads(report.read_text())["faults"]}


def _held(fault: dict[str, Any] | None, kills: int) -> bool:
    return fault is not None and fault["outcome"] == _HELD and fault["kills"] >= kills


def _all_scenarios(out: Path, kills: int, seed: int, stack: contextlib.ExitStack) -> Iterator[Scenario]:
    """Every scenario; stores and clusters are started when the first that needs them runs."""
    server = cache(lambda: stack.enter_context(_store()))
    cluster = cache(lambda: stack.enter_context(nodes()))

    def on_store(run: Callable[[Path, s3_server.S3Server], Outcome]) -> Callable[[Path], Outcome]:
        return lambda folder: run(folder, server())

    def on_cluster(run: Callable[[Path, Nodes], Outcome]) -> Callable[[Path], Outcome]:
        return lambda folder: run(folder, cluster())

    yield "late writers", late_writers
    yield from device_scenarios.SCENARIOS
    for name, run in store_scenarios.SCENARIOS:
        yield name, on_store(run)
    yield "ray job stop", ray_job_stop
    yield "a partition that the health check bears", partition.short_partition
    yield "a partition that outlasts the health check", partition.long_partition
    yield from compactions.SCENARIOS
    for window in WINDOWS:
        for target in window.targets:
            yield f"{target} killed {window.name}", on_cluster(partial(kill_in_window, window, target))
    yield "a kill under --retry-failed", on_cluster(kill_retrying)
    yield _SOAK, lambda _: soak(out / "soak", cluster(), kills, seed)


@contextlib.contextmanager
def _store() -> Iterator[s3_server.S3Server]:
    with tempfile.TemporaryDirectory(prefix="eim-s3-") as folder, s3_server.start(Path(folder)) as server:
        yield server


def _run(name: str, run: Callable[[Path], Outcome]) -> dict[str, Any]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eim-fault-") as folder:
        came_to: dict[str, Any] = {}
        try:
            found = run(Path(folder))
            came_to = asdict(found)
            found.check(device_scenarios.EXPECTED.get(name))
            ended = _HELD
        except NotPossible as why:
            ended = f"{_NOT_POSSIBLE}: {why}"
        except Exception as error:  # a scenario that fails is a finding; the others go on
            traceback.print_exc()
            ended = f"{_FAILED}: {type(error).__name__}: {str(error)[-1000:]}"
    line = {"name": name, "outcome": ended, **came_to, "seconds": round(time.monotonic() - started, 1)}
    Console(highlight=False).print(line, soft_wrap=True)
    return line


def _report(found: list[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> list[int]:
        return [fault[key] for fault in found if key in fault]

    return {
        "kills": sum(of("kills")),
        "lost": sum(of("lost")),
        "doubled": sum(of("doubled")),
        "repeated_rows_max": max(of("made_again") + of("repeated_rows"), default=0),
        "store_error_rows_equal": any(fault["name"] == _FLAKY and fault["outcome"] == _HELD for fault in found),
        "faults": found,
    }


if __name__ == "__main__":
    typer.run(main)
