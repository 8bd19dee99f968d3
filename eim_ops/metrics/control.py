"""How well strength controls an edit: in proportion, and without detours."""

from collections.abc import Sequence

import numpy as np
import torch

FEWEST = 3
"""Strengths that tell something of control."""


def pearson(strengths: Sequence[float], readings: Sequence[float]) -> float | None:
    """Correlation of strength and reading; None below three strengths, or where the reading never changes."""
    if len(strengths) < FEWEST or np.ptp(readings) == 0 or np.ptp(strengths) == 0:
        return None
    return float(np.corrcoef(strengths, readings)[0, 1])


def triangle_deficit(images: torch.Tensor) -> float | None:
    """How far images (S, ...) in order of strength stray from straight paths: 0 on a line, 1 where a step is undone.

    Mean over three images in a row of 1 - d(a, c) / (d(a, b) + d(b, c)), d the root mean square difference; ours.
    None below three images. Triples that don't move at all count as straight.
    """
    if len(images) < FEWEST:
        return None
    flat = images.flatten(1).double()
    steps = (flat[1:] - flat[:-1]).norm(dim=1)
    path, chord = steps[:-1] + steps[1:], (flat[2:] - flat[:-2]).norm(dim=1)
    return float((1 - torch.where(path > 0, chord / path.clamp(min=1e-12), 1.0)).mean())
