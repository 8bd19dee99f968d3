"""What planning, resuming and compacting cost where a million rows are nine tenths done. No model is loaded."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, Figures
from benchmarks.ledgers import Stopped, parts, stopped_run
from benchmarks.runs import Run, run_module
from benchmarks.sizes import Sizes

_BAR_SECONDS, _BAR_GIB = 60.0, 2.0


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Whole seconds of `eim plan`, of a resume until all that is left is read, and of `eim compact`, at each size; the
    most memory of any."""
    taken = {rows: _of_size(folder / f"{rows}", rows) for rows in sizes.control_rows}
    largest = max(taken)
    about = (
        f"{largest:,} rows of one image with one edit, {taken[largest]['done']:,} done in "
        f"{taken[largest]['parts']:,} parts; on disk, pages in memory"
    )
    told = {f"{rows}": its for rows, its in taken.items()}
    seconds = {
        "plan_1e6_s": ("plan_s", "eim plan"),
        "resume_1e6_s": ("resume_s", "list, account, read what is left, in one process"),
        "compact_1e6_s": ("compact_s", "eim compact"),
    }
    figures = {
        name: Figure(taken[largest][key], f"{what}: {about}", _BAR_SECONDS, "ceiling", told)
        for name, (key, what) in seconds.items()
    }
    peak = max(its["peak_mib"][job] for its in taken.values() for job in its["peak_mib"])
    how = f"resident memory of the whole process tree, the most of the three; {about}"
    return {**figures, "control_plane_peak_gib": Figure(peak / 1024, how, _BAR_GIB, "ceiling", told)}


def _of_size(folder: Path, rows: int) -> Mapping[str, Any]:
    stopped = stopped_run(folder, rows)
    before = parts(stopped.output)
    plan = run_module(folder, ["jobs.plan", str(stopped.recipe), "--json"])
    _expect(stopped, plan.result["account"])
    resume = run_module(folder, ["benchmarks.control_job", "resume", str(stopped.recipe)])
    _expect(stopped, resume.result)
    if resume.result["read"] != rows - stopped.edits - stopped.failures:
        raise RuntimeError(f"{resume.result['read']} rows were read, not those that are left")
    compact = run_module(folder, ["jobs.compact", str(stopped.output), "--json"])
    after = run_module(folder, ["jobs.plan", str(stopped.recipe), "--json"])
    _expect(stopped, after.result["account"])
    runs: Mapping[str, Run] = {"plan": plan, "resume": resume, "compact": compact, "plan_compacted": after}
    shown = {"done": stopped.edits + stopped.failures, "parts": before, "parts_compacted": parts(stopped.output)}
    shutil.rmtree(folder)
    return {
        **shown,
        **{f"{name}_s": run.seconds for name, run in runs.items()},
        "peak_mib": {name: run.tree_mib for name, run in runs.items()},
    }


def _expect(stopped: Stopped, account: Mapping[str, Any]) -> None:
    """A fast wrong account is none."""
    told = tuple(account[name] for name in ("asked", "edits", "failures"))
    if told != (stopped.rows, stopped.edits, stopped.failures):
        raise RuntimeError(f"asked, edits and failures are told as {told}, of {stopped}")
