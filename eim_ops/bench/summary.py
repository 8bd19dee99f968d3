"""From the benchmark's rows to its figures: one line a method, and what ours is against the best of the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]
FIGURES = ("success", "kept", "on_target", "off_target", "psnr_true")


def summarise(rows: Rows) -> dict[str, Any]:
    """`methods`: means over cases at strength 1, with `nfe_per_edit` and `seconds_per_edit`; `eim`: comparisons."""
    methods = {name: _method(rows, name) for name in dict.fromkeys(row["method"] for row in rows)}
    return {"methods": methods, "eim": _comparisons(rows, methods)}


def _method(rows: Rows, name: str) -> dict[str, float]:
    own = [row for row in rows if row["method"] == name and row["strength"] == 1.0]
    figures = {figure: float(np.mean([row[figure] for row in own])) for figure in FIGURES}
    cost = {"nfe_per_edit": "evaluations", "seconds_per_edit": "seconds"}
    return {**figures, **{key: float(np.mean([row[column] for row in own])) for key, column in cost.items()}}


def _comparisons(rows: Rows, methods: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Null where the methods that it takes were not run."""
    ours = methods.get("eim")
    rivals = {
        name: figures for name, figures in methods.items() if not name.startswith(("eim", "image_only", "ceiling"))
    }
    flowedit = [figures for name, figures in rivals.items() if name.startswith("flowedit")]
    equal = _at_least(ours, rivals) if ours else None
    return {
        "pearson_r_median": control(rows, "eim"),
        "psnr_gain_over_best_peer_db": ours["psnr_true"] - equal["psnr_true"] if ours and equal else None,
        "off_target_ratio_to_best_peer": ours["off_target"] / equal["off_target"] if ours and equal else None,
        "nfe_ratio_to_flowedit": ours["nfe_per_edit"] / flowedit[0]["nfe_per_edit"] if ours and flowedit else None,
        "hsds_over_dds_image_half": _ratio(methods, "image_only_hsds", "image_only_dds"),
        "hsds_over_dds_joint": _ratio(methods, "eim_hsds", "eim_dds"),
    }


def _at_least(ours: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]) -> Mapping[str, float] | None:
    """The rival of highest PSNR among those that succeed about as often (within .05 below ours), or more often."""
    close = [figures for figures in rivals.values() if figures["success"] >= ours["success"] - 0.05]
    return max(close, key=lambda figures: figures["psnr_true"], default=None)


def _ratio(methods: Mapping[str, Mapping[str, float]], above: str, below: str) -> float | None:
    """Off-target change for on-target change of one method over that of another; below 1 the first is purer."""
    if above not in methods or below not in methods:
        return None
    leak = [methods[name]["off_target"] / max(methods[name]["on_target"], 1e-9) for name in (above, below)]
    return leak[0] / max(leak[1], 1e-9)


def control(rows: Rows, method: str) -> float | None:
    """Median over cases with a number of |Pearson r| of strength against reading; null below three strengths."""
    by_case: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["method"] == method and row["kind"] == "continuous":
            by_case.setdefault(row["case"], []).append(row)
    values = []
    for its in by_case.values():
        strengths, readings = (np.array([row[key] for row in its]) for key in ("strength", "reading"))
        if len(set(strengths)) >= 3 and readings.std() > 0:
            values.append(abs(float(np.corrcoef(strengths, readings)[0, 1])))
    return float(np.median(values)) if values else None
