"""Where the time of a small job goes: eight faces, one edit each, the whole process."""

from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, edits, faces, run_pipeline
from benchmarks.sizes import Sizes

_FACES = 8


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Seconds from the start of the process to its end, less those in which it edits."""
    run = run_pipeline(folder, "cold", faces(folder, _FACES), edits(1, [1.0]))
    parts = parts_of(run, folder / "cold")
    edited = parts.pop("edits")
    how = f"{_FACES} faces, 1 edit each; whole process {run.seconds:.1f} s less {edited:.1f} s of edits"
    return {"cold_start_s": Figure(run.seconds - edited, how, 30.0, "ceiling", parts)}


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
