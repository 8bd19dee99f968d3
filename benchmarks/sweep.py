"""What a sweep saves: five attributes at six strengths in one run, against a run for each of the thirty edits."""

from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, edits, faces, run_pipeline
from benchmarks.sizes import Sizes
from eim_ops.cost import costs
from eim_ops.method import Method
from pipeline.schema import EDITS
from pipeline.storage import open_store

_STRENGTHS = (-1.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_ATTRIBUTES = 5
_SPREAD = (-1.0, 1.5, 0.5, 1.0, 0.25, 0.75)
"""The strengths in an order of which every beginning spans their range."""


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Evaluations an edit over a bare decode's; warm seconds an edit over those of single-edit runs; spilling."""
    images = faces(folder, sizes.sweep_faces)
    asked = edits(_ATTRIBUTES, _STRENGTHS)
    sweep = run_pipeline(folder, "sweep", images, asked, "--together")
    made = sizes.sweep_faces * _ATTRIBUTES * len(_STRENGTHS)
    chosen = single_edits(sizes.single_runs)
    singles = [run_pipeline(folder, f"single-{n}", images, one, "--together") for n, one in enumerate(chosen)]
    single = sum(run.warm for run in singles) / len(singles) / sizes.sweep_faces
    evaluations, decode = _mean_evaluations(folder / "sweep"), costs(Method()).decode
    whole = f"{sizes.sweep_faces} faces, {_ATTRIBUTES} attributes, {len(_STRENGTHS)} strengths: {made} edits"
    ratio = sweep.warm / made / single
    parts = {"sweep_seconds_per_edit": sweep.warm / made, "single_seconds_per_edit": single, **_whole(sweep, singles)}
    spilled = float(sweep.result["spilled_bytes"])
    return {
        "sweep_nfe_over_decode": Figure(
            evaluations / decode, f"{whole}; {evaluations:.4g} evaluations an edit, {decode} of a bare decode", 1.6,
            "ceiling", {"evaluations_per_edit": evaluations, "decode_evaluations": decode},
        ),
        "sweep_seconds_ratio": Figure(
            ratio, f"{whole}; against {len(singles)} of {_ATTRIBUTES * len(_STRENGTHS)} single-edit runs, spread over "
            "attributes and strengths", 0.5, "ceiling", parts
        ),
        "spilled_bytes": Figure(spilled, f"Ray's object store, in that sweep of {whole}", 0.0, "ceiling"),
    }  # fmt: skip


def single_edits(count: int) -> list[list[dict[str, Any]]]:
    """Edit lists of one edit: attributes in turn, strengths in turn, so that 30 are all there are."""
    targets = edits(_ATTRIBUTES, _STRENGTHS)
    return [[{**targets[n % _ATTRIBUTES], "strengths": [_SPREAD[n % len(_SPREAD)]]}] for n in range(count)]


def _mean_evaluations(output: Path) -> float:
    table = open_store(str(output)).read_tables("edits", EDITS, ["evaluations"])
    return sum(table["evaluations"].to_pylist()) / len(table)


def _whole(sweep: Run, singles: list[Run]) -> dict[str, float]:
    return {"sweep_whole_s": sweep.seconds, "single_whole_s": sum(run.seconds for run in singles) / len(singles)}
