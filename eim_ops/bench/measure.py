"""What an edit is worth, case by case, by the judge's reading and by the true edited face. Definitions are ours.

success: the judge sees the asked value. kept: the fraction of the other attributes that read as in the source's round
trip through the autoencoder. on_target: how far the asked attribute's reading went, off_target: how far the others'
did on average; numbers in units of their spread, a class 1 where it changed. psnr_true: dB to the true edited face.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eim_ops.bench.cases import Case
from eim_ops.bench.contenders import Edited
from eim_ops.faces.attributes import ATTRIBUTES, Attribute
from eim_ops.faces.judge import Judge, Reading, kept, reached

_SPREAD = 12**-0.5
"""Standard deviation of a number that is even on [0, 1]."""


def change(attribute: Attribute, before: Reading, after: Reading) -> float:
    """How far one reading went."""
    if attribute.kind == "categorical":
        return float(before[attribute.name] != after[attribute.name])
    return abs(after[attribute.name] - before[attribute.name]) / _SPREAD


def psnr(edited: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """dB per image of two uint8 (N, H, W, 3); equal images get 100."""
    error = np.square(edited.astype(np.float64) - truth).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 * 1e-10))


def measure(
    judge: Judge, cases: Sequence[Case], edited: Edited, round_trips: np.ndarray, true_faces: np.ndarray
) -> list[dict[str, Any]]:
    """One row for each case: the figures above, the reading of the asked attribute, and the cost."""
    before, after = judge.read(round_trips), judge.read(edited.pixels)
    decibels = psnr(edited.pixels, true_faces)
    rows = []
    for i, case in enumerate(cases):
        old, new = before.row(i), after.row(i)
        others = [attribute for attribute in ATTRIBUTES if attribute.name != case.attribute]
        (asked,) = (attribute for attribute in ATTRIBUTES if attribute.name == case.attribute)
        rows.append(
            {
                "case": case.seed,
                "attribute": case.attribute,
                "kind": asked.kind,
                "target": asked.clauses[case.index],
                "strength": edited.strength,
                "success": reached(new, case.attribute, case.index),
                "kept": float(np.mean([kept(old, new, attribute.name) for attribute in others])),
                "on_target": change(asked, old, new),
                "off_target": float(np.mean([change(attribute, old, new) for attribute in others])),
                "reading": float(new[case.attribute]),
                "psnr_true": float(decibels[i]),
                "evaluations": edited.evaluations,
            }
        )
    return rows
