"""The attributes of a face: names, kinds, values and the words that name them.

One table, read by the renderer, the grammar, the sampler and the judge. A value is stated by a
clause of exactly two words, so that two prompts that differ in one value stay aligned word by word.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Attribute:
    """One attribute. `values` are class names; of a continuous attribute, grades of equal width on [0, 1].

    `clauses[i]` is the two-word clause that states `values[i]`.
    """

    name: str
    kind: Literal["continuous", "categorical"]
    values: tuple[str, ...]
    clauses: tuple[str, ...]

    @property
    def grade_width(self) -> float:
        """Width of one caption grade, in units of a continuous attribute's [0, 1] range."""
        return 1.0 / len(self.values)

    def index(self, value: "float | str") -> int:
        """Class index of a categorical value, or grade index of a continuous one."""
        if isinstance(value, str):
            return self.values.index(value)
        return int(np.clip(int(value * len(self.values)), 0, len(self.values) - 1))

    def clause(self, value: "float | str") -> str:
        """The two words that state `value`."""
        return self.clauses[self.index(value)]

    def describes(self, index: int, value: "float | str") -> bool:
        """Whether saying `values[index]` of `value` is right: the same class, or a number at most a grade's
        width from the middle of the stated grade. Ours."""
        if isinstance(value, str):
            return self.values[index] == value
        return abs(value - self.grade_center(index)) <= self.grade_width

    def grade_center(self, index: int) -> float:
        """The middle of grade `index` on [0, 1]."""
        return (index + 0.5) * self.grade_width


def _graded(name: str, noun: str, *words: str) -> Attribute:
    clauses = tuple(word if " " in word else f"{word} {noun}" for word in words)
    return Attribute(name, "continuous", tuple(clause.replace(" ", "_") for clause in clauses), clauses)


def _classed(name: str, **clauses: str) -> Attribute:
    return Attribute(name, "categorical", tuple(clauses), tuple(clauses.values()))


ATTRIBUTES: tuple[Attribute, ...] = (
    _graded("age", "age", "young", "adult", "mature", "old"),
    _classed("skin", pale="pale skin", tan="tan skin", brown="brown skin", ebony="ebony skin"),
    _graded("face_width", "face", "slim", "oval", "plump"),
    _classed(
        "hair_color", black="black hair", brown="brown hair", blond="blond hair", red="red hair", grey="grey hair"
    ),
    _graded("hair_length", "haircut", "cropped", "short", "medium", "long"),
    _graded("smile", "smile", "deep frown", "slight frown", "neutral mouth", "slight", "broad"),
    _graded("eyes", "eyes", "shut", "narrow", "open", "wide"),
    _classed("glasses", none="no glasses", round="round glasses", sunglasses="dark sunglasses"),
    _classed("beard", none="no beard", short="short beard", full="full beard"),
    _classed("hat", none="no hat", cap="baseball cap", beanie="knitted beanie"),
    _classed(
        "background",
        blue="blue background",
        green="green background",
        yellow="yellow background",
        purple="purple background",
    ),
    _graded("lighting", "lighting", "dark", "dim", "soft", "bright"),
)

BY_NAME: dict[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}
"""Attribute by its name, in canonical order."""

BY_CLAUSE: dict[str, tuple[Attribute, int]] = {
    clause: (attribute, index) for attribute in ATTRIBUTES for index, clause in enumerate(attribute.clauses)
}
"""(attribute, value index) by clause; clauses are unique over all attributes."""
