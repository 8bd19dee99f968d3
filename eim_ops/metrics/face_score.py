"""How well an edit of a face did, by the judge's reading: the asked change, and all else unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eim_ops.faces.attributes import ATTRIBUTES, BY_CLAUSE, BY_NAME
from eim_ops.faces.judge import Judge, Reading, kept, reached


@dataclass(frozen=True)
class FaceScore:
    """reached: the judge sees every asked target. kept: the fraction of the other attributes that read as
    before. reading: the judge's words for the asked attributes."""

    reached: bool
    kept: float
    reading: str


def asked_values(attributes: Sequence[str], targets: Sequence[str]) -> dict[str, int] | None:
    """Value index by attribute name, or None where the edit does not speak of faces."""
    values = {}
    for name, target in zip(attributes, targets, strict=True):
        known = BY_CLAUSE.get(" ".join(target.lower().split()))
        if known is None or known[0].name != name:
            return None
        values[name] = known[1]
    return values


def score_faces(
    judge: Judge, before: np.ndarray, edited: np.ndarray, asked: Sequence[dict[str, int]]
) -> list[FaceScore]:
    """Score each row of `edited` against the same row of `before`, the source's VAE round trip.

    Both uint8 (B, 64, 64, 3). Definitions of reached and kept: `eim_ops.faces.judge`. Ours.
    """
    old, new = judge.read(before), judge.read(edited)
    return [_score(old.row(i), new.row(i), values) for i, values in enumerate(asked)]


def _score(old: Reading, new: Reading, asked: dict[str, int]) -> FaceScore:
    others = [attribute.name for attribute in ATTRIBUTES if attribute.name not in asked]
    return FaceScore(
        reached=all(reached(new, name, index) for name, index in asked.items()),
        kept=sum(kept(old, new, name) for name in others) / max(1, len(others)),
        reading=", ".join(_words(new, name) for name in asked),
    )


def _words(reading: Reading, name: str) -> str:
    """The clause that states what was read: of a number its grade's, of a class index its own."""
    attribute, value = BY_NAME[name], reading[name]
    return attribute.clause(value) if attribute.kind == "continuous" else attribute.clauses[int(value)]
