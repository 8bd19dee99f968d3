"""What the pipeline costs beside a plain loop over the same model calls."""

from pathlib import Path

from benchmarks.figure import Figure, Figures
from benchmarks.runs import TARGETS, faces, run_pipeline, run_rival
from benchmarks.sizes import Sizes

_STRENGTHS = (0.5, 1.0)


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Edits a second of a whole sweep over those of `rivals/plain_loop.py`, both from when the models are loaded."""
    images = faces(folder, sizes.efficiency_faces)
    sweep = {"attributes": {"smile": TARGETS["smile"]}, "strengths": list(_STRENGTHS)}
    ours = run_pipeline(folder, "eim", images, None, "--together", sweep=sweep)
    loop = run_rival(folder, "plain_loop", images, _STRENGTHS)
    made = sizes.efficiency_faces * len(_STRENGTHS)
    how = f"{sizes.efficiency_faces} faces, 1 attribute, {len(_STRENGTHS)} strengths; loop seconds / pipeline seconds"
    parts = {
        "pipeline_edits_per_s": made / ours.warm,
        "loop_edits_per_s": made / loop.warm,
        "pipeline_seconds_by_stage": ours.result["seconds_by_stage"],
    }
    return {"pipeline_efficiency": Figure(loop.warm / ours.warm, how, 0.9, parts=parts)}
