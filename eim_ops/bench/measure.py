"""What an edit is worth, case by case, by the judge's reading and by the true edited face. Definitions are ours.

success: the judge sees the asked value. kept: the fraction of the other attributes that read as in the source's round
trip through the autoencoder. on_target: how far the asked attribute's reading went the asked way; off_target: how far
the others' went on average. A number's way is in units of its spread over independent faces, 1 / sqrt(12), in both
worlds; a class counts 1 where it changed, and the asked one where it is the asked class. psnr_true: dB to the true
edited face.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eim_ops.bench.cases import Case
from eim_ops.bench.contenders import Edited
from eim_ops.faces.attributes import ATTRIBUTES, Attribute
from eim_ops.faces.judge import Judge, Reading, kept, reached
from eim_ops.metrics.psnr import psnr

_SPREAD = 12**-0.5
"""Standard deviation of a number that is even on [0, 1]."""


def _change(attribute: Attribute, before: Reading, after: Reading) -> float:
    """How far one reading went."""
    if attribute.kind == "categorical":
        return float(before[attribute.name] != after[attribute.name])
    return abs(after[attribute.name] - before[attribute.name]) / _SPREAD


def _towards(case: Case, before: Reading, after: Reading) -> float:
    """How far the asked reading went the asked way; negative where it went the other way."""
    asked = case.asked
    if asked.kind == "categorical":
        return float(after[asked.name] == case.index) - float(before[asked.name] == case.index)
    way = np.sign(asked.grade_center(case.index) - before[asked.name])
    return float(way * (after[asked.name] - before[asked.name]) / _SPREAD)


def measure(
    judge: Judge, cases: Sequence[Case], edited: Edited, round_trips: np.ndarray, true_faces: np.ndarray
) -> list[dict[str, Any]]:
    """One row for each case: the figures above, `changes` of all attributes in their order, the reading of the asked
    one, and what `Edited` says of the case. Images are uint8 (N, 64, 64, 3)."""
    before, after = judge.read(round_trips), judge.read(edited.pixels)
    decibels = psnr(torch.from_numpy(edited.pixels).float(), torch.from_numpy(true_faces).float(), 255.0)
    rows = []
    for i, case in enumerate(cases):
        old, new = before.row(i), after.row(i)
        changes = [_change(attribute, old, new) for attribute in ATTRIBUTES]
        others = [attribute.name for attribute in ATTRIBUTES if attribute.name != case.attribute]
        rows.append(
            {
                "case": case.number,
                "attribute": case.attribute,
                "kind": case.asked.kind,
                "target": case.clause,
                "strength": edited.strength,
                "success": reached(new, case.attribute, case.index),
                "kept": float(np.mean([kept(old, new, name) for name in others])),
                "on_target": _towards(case, old, new),
                "off_target": float(np.mean([c for a, c in zip(ATTRIBUTES, changes, strict=True) if a.name in others])),
                "changes": changes,
                "reading": float(new[case.attribute]),
                "psnr_true": float(decibels[i]),
                "evaluations": edited.evaluations,
                "triangle_deficit": edited.triangle_deficits[i],
                "direction_method": edited.direction_methods[i],
            }
        )
    return rows
