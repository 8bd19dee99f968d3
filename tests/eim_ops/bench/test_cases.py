from collections.abc import Sequence

from PIL import Image

from eim_ops.bench.cases import captioned, draw_cases, next_value, sources, truths
from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME
from eim_ops.faces.grammar import aligned, parse, parse_request

CASES = draw_cases(24, "correlated", "test")


def test_cases_cover_all_attributes_ask_for_a_change_and_are_the_same_again() -> None:
    assert {case.attribute for case in CASES} == {attribute.name for attribute in ATTRIBUTES}
    assert draw_cases(30, "correlated", "test")[:24] == CASES
    for case in CASES:
        assert BY_NAME[case.attribute].index(getattr(case.face, case.attribute)) != case.index
        assert 1 <= len(aligned(case.source_prompt, case.target_prompt)) <= 2
        assert parse_request(case.request) == (case.attribute, case.index)


def test_no_face_and_no_noise_is_both_tuned_on_and_reported() -> None:
    tuned, reported = (draw_cases(300, "correlated", split) for split in ("tuning", "test"))
    assert not {case.face for case in tuned} & {case.face for case in reported}
    assert not {case.seed for case in tuned} & {case.seed for case in reported}
    assert len({case.seed for case in reported}) == 300


def test_the_true_edit_differs_where_the_source_differs_from_it() -> None:
    assert all((source != truth).any() for source, truth in zip(sources(CASES), truths(CASES), strict=True))


class EchoCaptioner:
    """A fake: describes an image by its size and appends the request."""

    name = revision = "echo"

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        return [f"{image.width} pixels" for image in images]

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        return [f"{prompt}, {request}" for prompt, request in zip(prompts, requests, strict=True)]

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        return list(answers)


def test_captions_come_from_the_captioner_and_all_else_stays() -> None:
    written = captioned(CASES[:2], EchoCaptioner())
    assert [case.source_prompt for case in written] == ["64 pixels"] * 2
    assert [case.target_prompt for case in written] == [f"64 pixels, {case.request}" for case in CASES[:2]]
    assert [case.truth for case in written] == [case.truth for case in CASES[:2]]


def test_the_next_value_is_of_another_attribute_than_the_asked_one() -> None:
    for case in CASES:
        (changed,) = {a for a, i in parse(next_value(case)).items() if i != parse(case.source_prompt)[a]}
        assert changed != case.attribute
