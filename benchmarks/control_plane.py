"""What planning, resuming, compacting and verifying cost where a million rows are nine tenths done, without a model."""

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
    most memory of any. `eim verify`, which reads every image, has figures of its own."""
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
    peak = max(mib for its in taken.values() for job, mib in its["peak_mib"].items() if job != "verify")
    how = f"resident memory of the whole process tree, the most of the three; {about}"
    verified = f"eim verify, which reads and hashes every image: {about}"
    return {
        **figures,
        "control_plane_peak_gib": Figure(peak / 1024, how, _BAR_GIB, "ceiling", told),
        "verify_1e6_s": Figure(taken[largest]["verify_s"], verified, side="ceiling"),
        "verify_1e6_peak_gib": Figure(
            max(its["peak_mib"]["verify"] for its in taken.values()) / 1024, verified, side="ceiling"
        ),
    }


def _of_size(folder: Path, rows: int) -> Mapping[str, Any]:
    stopped = stopped_run(folder, rows)
    before = parts(stopped.output)
    plan = run_module(folder, ["jobs.plan", str(stopped.recipe), "--json"])
    _expect(stopped, plan.result["account"])
    resume = run_module(folder, ["benchmarks.control_job", "resume", str(stopped.recipe)])
    _expect(stopped, resume.result)
    if resume.result["read"] != rows - stopped.edits - stopped.failures:
        raise RuntimeError(f"{resume.result['read']} rows were read, not those that are left")
    verify = run_module(folder, ["jobs.verify", str(stopped.output), "--json"], code=1)
    _expect_missing(stopped, verify.result)
    compact = run_module(folder, ["jobs.compact", str(stopped.output), "--json"])
    after = run_module(folder, ["jobs.plan", str(stopped.recipe), "--json"])
    _expect(stopped, after.result["account"])
    runs: Mapping[str, Run] = {
        "plan": plan,
        "resume": resume,
        "verify": verify,
        "compact": compact,
        "plan_compacted": after,
    }
    shown = {"done": stopped.edits + stopped.failures, "parts": before, "parts_compacted": parts(stopped.output)}
    shutil.rmtree(folder)
    return {
        **shown,
        **{f"{name}_s": run.seconds for name, run in runs.items()},
        "peak_mib": {name: run.peaks.tree_rss for name, run in runs.items()},
    }


def _expect(stopped: Stopped, account: Mapping[str, Any]) -> None:
    """A fast wrong account is none."""
    told = tuple(account[name] for name in ("asked", "edits", "failures"))
    if told != (stopped.rows, stopped.edits, stopped.failures):
        raise RuntimeError(f"asked, edits and failures are told as {told}, of {stopped}")


def _expect_missing(stopped: Stopped, told: Mapping[str, Any]) -> None:
    """What is left is missing, and nothing else is wrong."""
    (check,) = told["runs"]
    _expect(stopped, check)
    wrong = {name: check[name] for name in ("missing", "doubled", "unasked", "absent", "altered", "outside")}
    left = stopped.rows - stopped.edits - stopped.failures
    if wrong != {**dict.fromkeys(wrong, 0), "missing": left}:
        raise RuntimeError(f"eim verify tells {wrong}, of {stopped}")
