"""The benchmark's cases: a face, a request, and the face that a perfect edit would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from eim_ops.captioning.base import Captioner
from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME, Attribute
from eim_ops.faces.face import Face
from eim_ops.faces.grammar import caption, parse, request, target_prompt
from eim_ops.faces.render import render
from eim_ops.mini.face_set import HELD_OUT_SEED, draw_faces

World = Literal["independent", "correlated"]
"""How attributes come together in the faces that are edited."""
Split = Literal["test", "tuning"]
"""Settings are chosen on `tuning`; figures are reported on `test`."""
_SEEDS: Mapping[Split, int] = {"test": HELD_OUT_SEED + 10, "tuning": HELD_OUT_SEED + 20}
"""Of faces that no model was trained or measured on; the two share none."""
_FIRST_NOISE: Mapping[Split, int] = {"test": 0, "tuning": 1_000_000}
"""Seeds of noise, counted from here: the two share none either."""


@dataclass(frozen=True)
class Case:
    """Edit `face` so that `attribute` shows value `index`. number: its place in its split. seed: of its noise."""

    number: int
    seed: int
    face: Face
    attribute: str
    index: int
    source_prompt: str
    target_prompt: str

    @property
    def asked(self) -> Attribute:
        """The attribute that is to change."""
        return BY_NAME[self.attribute]

    @property
    def clause(self) -> str:
        """The words of the wanted value."""
        return self.asked.clauses[self.index]

    @property
    def request(self) -> str:
        """What a user would ask for."""
        return request(self.clause)

    @property
    def truth(self) -> Face:
        """The face that a perfect edit shows."""
        return self.face.edited(self.attribute, self.index)


def draw_cases(count: int, world: World, split: Split) -> list[Case]:
    """`count` cases over all attributes in turn, each to another value than the face has; the same on every machine.

    The prompts are ground truth: every attribute of the face, and the same but for the request.
    """
    cases = []
    for number, face in enumerate(draw_faces(_SEEDS[split], count, world == "correlated")):
        attribute = ATTRIBUTES[number % len(ATTRIBUTES)]
        has = attribute.index(getattr(face, attribute.name))
        others = [index for index in range(len(attribute.values)) if index != has]
        chosen = int(np.random.default_rng((_SEEDS[split], number)).choice(others))
        source = caption(face)
        target, seed = target_prompt(source, attribute.name, chosen), _FIRST_NOISE[split] + number
        cases.append(Case(number, seed, face, attribute.name, chosen, source, target))
    return cases


def captioned(cases: Sequence[Case], captioner: Captioner) -> list[Case]:
    """The cases with the prompts that `captioner` writes from image and request, right or wrong."""
    written = captioner.describe([Image.fromarray(pixels) for pixels in sources(cases)])
    rewritten = captioner.rewrite(written, [case.request for case in cases])
    return [
        replace(case, source_prompt=source, target_prompt=target)
        for case, source, target in zip(cases, written, rewritten, strict=True)
    ]


def next_value(case: Case, place: int = 1) -> str:
    """The case's source prompt with another attribute changed to its next value: the one `place` after the asked one.

    Raises GrammarError where the prompt, a captioner's, is not of the grammar.
    """
    other = ATTRIBUTES[(ATTRIBUTES.index(case.asked) + place) % len(ATTRIBUTES)]
    has = parse(case.source_prompt).get(other.name, 0)
    return target_prompt(case.source_prompt, other.name, (has + 1) % len(other.values))


def sources(cases: Sequence[Case]) -> np.ndarray:
    """The faces to be edited, uint8 (N, 64, 64, 3)."""
    return np.stack([render(case.face) for case in cases])


def truths(cases: Sequence[Case]) -> np.ndarray:
    """The faces that perfect edits show, uint8 (N, 64, 64, 3)."""
    return np.stack([render(case.truth) for case in cases])
