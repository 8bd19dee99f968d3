"""Where the time of a small job goes: eight faces, one edit each, the whole process."""

from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, edits, faces, run_module, run_pipeline, write_recipe
from benchmarks.sizes import Sizes

_FACES = 8


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Seconds from the start of `eim edit` to its end, less those in which it edits; and by part, in a second process
    whose clock stands around the same code."""
    images, asked = faces(folder, _FACES), edits(1, [1.0])
    command = run_module(folder, ["jobs.cli", "edit", str(write_recipe(folder, "cold", images, asked)), "--json"])
    edited = command.result["seconds_by_stage"]["edit"]
    clocked = run_pipeline(folder, "clocked", images, asked)
    parts = parts_of(clocked, folder / "clocked")
    edited_there = parts.pop("edits")
    told, there = (
        f"{_FACES} faces, 1 edit each; whole process {seconds:.1f} s less {its:.1f} s of edits"
        for seconds, its in ((command.seconds, edited), (clocked.seconds, edited_there))
    )
    by_part = Figure(clocked.seconds - edited_there, f"the same with a clock: {there}", parts=parts)
    return {
        "cold_start_s": Figure(command.seconds - edited, f"`eim edit`, {told}", 30.0, "ceiling"),
        "cold_start_by_part_s": by_part,
    }


def parts_of(run: Run, output: Path) -> dict[str, float]:
    """Seconds of each part, in order; together the whole process."""
    events = run.events
    (recorded,) = (output / "asked").glob("*.json")
    began = run.result["began"]
    started = began - events["connected"][0]  # the process's start, in seconds since 1970, about
    marks = {
        "interpreter": events["driver-starts"][0],
        "imports": events["imported"][0],
        "ray_start": events["connected"][0],
        "listing_and_records": recorded.stat().st_mtime - started,
        "account_plan_and_actor_processes": min(events["captioner-starts"] + events["editor-starts"]),
        "imports_and_model_loads_in_workers": max(events["loaded"]),
        "first_captions": events["edit-begins"][0],
        "edits": events["edit-ends"][-1],
        "score_write_and_account": events["run-ends"][0],
        "ray_shutdown": events["shut-down"][0],
        "exit": run.seconds,
    }
    ends = list(marks.values())
    return {name: end - before for name, end, before in zip(marks, ends, [0.0, *ends], strict=False)}
