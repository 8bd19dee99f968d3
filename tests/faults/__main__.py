"""`python -m tests.faults --out out/faults`: every scenario, and what each came to, as faults.json.

Exits with 1 where a row was lost or doubled, or a scenario did not end as it should.
"""

import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests import s3_server
from tests.faults import device_scenarios, store_scenarios
from tests.faults.cluster import Nodes, nodes
from tests.faults.kills import WINDOWS, kill_in_window, soak
from tests.faults.late import late_writers
from tests.faults.outcome import Outcome

_FLAKY = "flaky store"
"""The scenario that compares its view with that of a run without faults."""
Scenario = tuple[str, Callable[[Path], Outcome]]


def main(
    out: Annotated[Path, typer.Option(help="where faults.json is written")] = Path("out/faults"),
    kills: Annotated[int, typer.Option(help="of the soak")] = 30,
    seed: Annotated[int, typer.Option(help="of the soak")] = 0,
    only: Annotated[str, typer.Option(help="only scenarios whose name holds this text")] = "",
) -> None:
    """Attack whole edit jobs, and count in storage what is lost or doubled."""
    found: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    for name, run in _all_scenarios(kills, seed):
        if only in name:
            found.append(_run(name, run))
            (out / "faults.json").write_text(json.dumps(_report(found), indent=1) + "\n")
    report = _report(found)
    if report["lost"] or report["doubled"] or any(fault["outcome"] != "held" for fault in found):
        raise typer.Exit(1)


def _all_scenarios(kills: int, seed: int) -> Iterator[Scenario]:
    yield "late writers", late_writers
    yield from device_scenarios.SCENARIOS
    with tempfile.TemporaryDirectory(prefix="eim-s3-") as folder, s3_server.start(Path(folder)) as server:
        for name, run in store_scenarios.SCENARIOS:
            yield name, partial(run, server=server)
    with nodes() as cluster:
        yield from _kills(cluster, kills, seed)


def _kills(cluster: Nodes, kills: int, seed: int) -> Iterator[Scenario]:
    for window in WINDOWS:
        for target in window.targets:
            yield f"{target} killed {window.name}", partial(kill_in_window, window, target, nodes=cluster)
    yield "kills at random", partial(soak, nodes=cluster, kills=kills, seed=seed)


def _run(name: str, run: Callable[[Path], Outcome]) -> dict[str, Any]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eim-fault-") as folder:
        try:
            came_to = {"outcome": "held", **asdict(run(Path(folder)))}
        except Exception as error:  # a scenario that fails is a finding; the others go on
            traceback.print_exc()
            came_to = {"outcome": f"failed: {type(error).__name__}: {str(error)[-1000:]}"}
    line = {"name": name, **came_to, "seconds": round(time.monotonic() - started, 1)}
    Console(highlight=False).print(line, soft_wrap=True)
    return line


def _report(found: list[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> list[int]:
        return [fault[key] for fault in found if key in fault]

    return {
        "kills": sum(of("kills")),
        "lost": sum(of("lost")),
        "doubled": sum(of("doubled")),
        "repeated_rows_max": max(of("repeated_rows"), default=0),
        "store_error_rows_equal": any(fault["name"] == _FLAKY and fault["outcome"] == "held" for fault in found),
        "faults": found,
    }


if __name__ == "__main__":
    typer.run(main)
