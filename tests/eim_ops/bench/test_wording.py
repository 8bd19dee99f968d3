from typing import get_args

import pytest

from eim_ops.bench.cases import Case, draw_cases
from eim_ops.bench.wording import Wording, worded
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.grammar import aligned, parse

CASES = draw_cases(3 * len(ATTRIBUTES), "correlated", "tuning")


@pytest.mark.parametrize("wording", get_args(Wording))
@pytest.mark.parametrize("case", CASES[: len(ATTRIBUTES)], ids=lambda case: case.attribute)
def test_a_wording_changes_how_the_request_is_said_and_nothing_that_is_asked(case: Case, wording: Wording) -> None:
    said = worded(case, wording)
    source, target = parse(said.source_prompt), parse(said.target_prompt)
    others = parse(case.source_prompt).keys() - {case.attribute}
    assert {name for name in others & source.keys() if source[name] != target[name]} == set()
    assert (source.keys() - {case.attribute} == others) == (wording != "bare")
    assert target[case.attribute] == case.index or wording == "outermost"
    assert (said.source_prompt, said.target_prompt) != (case.source_prompt, case.target_prompt) or said.strength == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.number))
def test_the_outermost_grade_at_its_strength_comes_to_the_asked_grade(case: Case) -> None:
    said = worded(case, "outermost")
    has, end = parse(said.source_prompt)[case.attribute], parse(said.target_prompt)[case.attribute]
    assert len(aligned(said.source_prompt, said.target_prompt)) > 0
    if case.asked.kind == "continuous":
        assert has + said.strength * (end - has) == pytest.approx(case.index)
        assert end in (0, len(case.asked.values) - 1)
    else:
        assert (end, said.strength) == (case.index, 1)
