"""Against what one would write instead: FlowEdit in a loop, a plain Ray Data script, a Daft script."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, edits, faces, run_pipeline, run_rival
from benchmarks.sizes import Sizes

_SWEEP = (-1.0, 0.5, 1.0, 1.5)
_QUALITY = Path(__file__).parents[1] / "docs" / "benchmark" / "correlated-vlm" / "summary.json"
_FLOWEDIT = "flowedit steps=14 last=14 source_guidance=1 target_guidance=1"


def flowedit_loop(folder: Path, sizes: Sizes) -> Figures:
    """Warm seconds an edit of FlowEdit, one image a call, over ours; in a sweep of four and for one strength alone."""
    images, few = faces(folder, sizes.rival_faces), faces(folder, sizes.flowedit_faces)
    sweep = _seconds(run_pipeline(folder, "eim", images, edits(1, _SWEEP), "--together"), sizes.rival_faces * 4)
    single = _seconds(run_pipeline(folder, "eim-1", images, edits(1, [1.0]), "--together"), sizes.rival_faces)
    loop = _seconds(run_rival(folder, "flowedit_loop", few, [1.0]), sizes.flowedit_faces)
    methods = json.loads(_QUALITY.read_text())["methods"]
    quality = {name: {k: methods[name][k] for k in ("success", "kept", "nfe_per_edit")} for name in ("eim", _FLOWEDIT)}
    parts = {
        "flowedit_seconds_per_edit": loop,
        "eim_seconds_per_edit": sweep,
        "eim_seconds_per_edit_single": single,
        "quality": quality,
    }
    sizes_told = f"{sizes.flowedit_faces} faces one a call; ours {sizes.rival_faces} faces"
    single_how = f"seconds an edit, {sizes_told} at strength 1 alone"
    how = f"seconds an edit, {sizes_told} at four strengths; {quality_told(quality['eim'], quality[_FLOWEDIT])}"
    return {
        "speedup_flowedit_loop": Figure(loop / sweep, how, 3.0, parts=parts),
        "speedup_flowedit_loop_single": Figure(loop / single, single_how),
    }


def quality_told(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Both sides' success and kept, and by how much ours is lower where it is: the bar is for equal or better ones."""
    names = ("success", "kept")
    told = ", ".join(f"{name} {ours[name]:.3f} against {theirs[name]:.3f}" for name in names)
    behind = [f"{name} {theirs[name] - ours[name]:.3f} lower" for name in names if ours[name] < theirs[name]]
    return f"recorded {told}: ours {' and '.join(behind) or 'equal or better'}"


def plain_ray(folder: Path, sizes: Sizes) -> Figures:
    """Warm seconds of `rivals/plain_ray.py` over ours; with torch's threads as Ray sets them, and as we do."""
    images = faces(folder, sizes.rival_faces)
    ours = run_pipeline(folder, "eim", images, edits(1, _SWEEP), "--together")
    theirs = run_rival(folder, "plain_ray", images, _SWEEP)
    tuned = run_rival(folder, "plain_ray", images, _SWEEP, "--threads", "2")
    how = f"{sizes.rival_faces} faces, 1 attribute, 4 strengths; its warm seconds / ours"
    parts = {"eim_s": ours.warm, "plain_ray_s": theirs.warm, "plain_ray_two_threads_s": tuned.warm}
    parts |= {"eim_whole_s": ours.seconds, "plain_ray_whole_s": theirs.seconds}
    return {
        "speedup_plain_ray": Figure(theirs.warm / ours.warm, how, 1.3, parts=parts),
        "speedup_plain_ray_two_threads": Figure(tuned.warm / ours.warm, f"{how}; its torch set to two threads"),
    }


def daft(folder: Path, sizes: Sizes) -> Figures:
    """Warm seconds of `rivals/daft_udf.py` over ours."""
    images = faces(folder, sizes.rival_faces)
    ours = run_pipeline(folder, "eim", images, edits(1, _SWEEP), "--together")
    theirs = run_rival(folder, "daft_udf", images, _SWEEP)
    how = f"{sizes.rival_faces} faces, 1 attribute, 4 strengths; its warm seconds / ours"
    parts = {"eim_s": ours.warm, "daft_s": theirs.warm, "eim_whole_s": ours.seconds, "daft_whole_s": theirs.seconds}
    return {"speedup_daft": Figure(theirs.warm / ours.warm, how, 1.3, parts=parts)}


def _seconds(run: Run, made: int) -> float:
    return run.warm / made
