"""The same request in other words: what aligned prompts, full descriptions and graded words are worth."""

from dataclasses import dataclass
from typing import Literal

from eim_ops.bench.cases import Case
from eim_ops.faces.grammar import parse, unparse
from eim_ops.method import Method

Wording = Literal["appended", "unstated", "bare", "outermost"]


@dataclass(frozen=True)
class Worded:
    """Our method with prompts that are worded otherwise than the benchmark's own.

    appended: the target states the asked value last instead of in its place, so that all words between shift.
    unstated: so it does, and the source does not state the attribute at all.
    bare: both prompts state the asked attribute alone.
    outermost: the target states the last grade on the way to the asked one, at the part of the strength that leads to
        the asked one; a class is stated as it is.
    """

    method: Method
    wording: Wording


@dataclass(frozen=True)
class WordedCase:
    """Prompts, and the strength that comes to the asked change."""

    source_prompt: str
    target_prompt: str
    strength: float


def worded(case: Case, wording: Wording) -> WordedCase:
    """The case in other words. Raises GrammarError where its prompts, a captioner's, are not of the grammar."""
    name = case.attribute
    source = parse(case.source_prompt)
    others = {attribute: index for attribute, index in source.items() if attribute != name}
    last = {**others, name: case.index}
    if wording == "appended":
        return WordedCase(case.source_prompt, unparse(last), 1.0)
    if wording == "unstated":
        return WordedCase(unparse(others), unparse(last), 1.0)
    if wording == "bare":
        return WordedCase(unparse({name: source[name]}), unparse({name: case.index}), 1.0)
    end, strength = _outermost(case, source[name])
    return WordedCase(case.source_prompt, unparse({**source, name: end}), strength)


def _outermost(case: Case, has: int) -> tuple[int, float]:
    if case.asked.kind == "categorical" or case.index == has:
        return case.index, 1.0
    end = len(case.asked.values) - 1 if case.index > has else 0
    return end, (case.index - has) / (end - has)
