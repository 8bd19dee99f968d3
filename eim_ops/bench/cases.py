"""The benchmark's cases: a face, a request, and the face that a perfect edit would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.face import Face
from eim_ops.faces.grammar import caption, target_prompt
from eim_ops.faces.render import render
from eim_ops.mini.face_set import HELD_OUT_SEED, draw_faces

CASES_SEED = HELD_OUT_SEED + 10
"""Faces that no model was trained or measured on."""


@dataclass(frozen=True)
class Case:
    """Edit `face` so that `attribute` shows value `index`; prompts from ground truth, every attribute stated."""

    face: Face
    attribute: str
    index: int
    seed: int

    @property
    def truth(self) -> Face:
        """The face that a perfect edit shows."""
        return self.face.edited(self.attribute, self.index)

    @property
    def source_prompt(self) -> str:
        """States every attribute of the face."""
        return caption(self.face)

    @property
    def target_prompt(self) -> str:
        """The same but for the request."""
        return target_prompt(self.source_prompt, self.attribute, self.index)


def draw_cases(count: int, correlated: bool = False) -> list[Case]:
    """`count` cases over all attributes in turn, each to another value than the face has; the same on every machine."""
    cases = []
    for number, face in enumerate(draw_faces(CASES_SEED, count, correlated)):
        attribute = ATTRIBUTES[number % len(ATTRIBUTES)]
        has = attribute.index(getattr(face, attribute.name))
        others = [index for index in range(len(attribute.values)) if index != has]
        chosen = int(np.random.default_rng((CASES_SEED, number)).choice(others))
        cases.append(Case(face, attribute.name, chosen, seed=number))
    return cases


def sources(cases: Sequence[Case]) -> np.ndarray:
    """The faces to be edited, uint8 (N, 64, 64, 3)."""
    return np.stack([render(case.face) for case in cases])


def truths(cases: Sequence[Case]) -> np.ndarray:
    """The faces that perfect edits show, uint8 (N, 64, 64, 3)."""
    return np.stack([render(case.truth) for case in cases])
