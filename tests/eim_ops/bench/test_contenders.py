from dataclasses import replace

import pytest

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.bench.cases import draw_cases
from eim_ops.bench.contenders import CEILING, SWEEP, UNEDITED, Contender, ours, run
from eim_ops.bench.levers import changed, lever_contenders, wording_contenders
from eim_ops.bench.spared import Spared
from eim_ops.bench.wording import Worded
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.method import Method
from eim_ops.peers.flowedit import FlowEditSettings

CASES = draw_cases(3, "independent", "test")
FAST = Method(steps=2, draws=1)
KINDS = [
    CEILING,
    UNEDITED,
    Contender("flowedit", "flowedit", FlowEditSettings(steps=3, last=2)),
    Contender("eim", "eim", FAST, (0.5, 1.0, 1.5)),
    Contender("prompts outermost", "eim", Worded(FAST, "outermost"), (0.5, 1.0)),
    Contender("others spared", "eim", Spared(FAST)),
]


@pytest.mark.parametrize("contender", KINDS, ids=lambda c: c.name)
def test_each_kind_of_contender_edits_every_case(contender: Contender, backbone: Sd3Backbone) -> None:
    edited = run(contender, backbone, CASES, batch=2)
    assert tuple(one.strength for one in edited) == contender.strengths
    assert all(one.pixels.shape == (3, 64, 64, 3) for one in edited)
    assert (edited[0].evaluations == 0) == (contender.family == "round_trip")
    assert [d is None for d in edited[0].triangle_deficits] == [len(contender.strengths) < 3] * 3
    ours_with_rows = contender.family == "eim" and not isinstance(contender.settings, Spared)
    assert set(edited[0].direction_methods) == ({"dds"} if ours_with_rows else {None})


def test_evaluations_are_those_of_a_sweep_of_four_however_many_are_run(backbone: Sd3Backbone) -> None:
    costs = [
        run(Contender("eim", "eim", FAST, strengths), backbone, CASES[:2], batch=2)[0].evaluations
        for strengths in ((1.0,), (0.5, 1.0), (-1.0, 0.0, 0.5, 1.0))
    ]
    assert costs == pytest.approx([costs[-1]] * 3)
    spared = run(Contender("others spared", "eim", Spared(FAST)), backbone, CASES[:2], batch=2)[0].evaluations
    assert spared == pytest.approx(costs[-1] + (len(ATTRIBUTES) - 1) * FAST.draws / SWEEP)


def test_an_ablation_that_is_the_default_is_not_run_twice() -> None:
    for half in ("dds", "hsds"):
        names = [contender.name for contender in ours(Method(image_half=half))]  # type: ignore[arg-type]
        assert names[0] == "eim" and f"joint_{half}" not in names and len(names) == len(set(names))


def test_an_image_half_alone_is_run_up_to_its_whole_length() -> None:
    default = Method()
    its = next(contender for contender in ours(default) if contender.name == "image_half_hsds")
    assert its.strengths[0] == 1 and its.strengths[-1] * (1 - default.sigma_max) == pytest.approx(1)


def test_each_lever_differs_from_the_default_in_what_its_name_says() -> None:
    first, *levers = lever_contenders()
    assert first.settings == Method() and len({str(lever.content) for lever in levers}) >= len(levers) - 2
    for lever in levers:
        key, value = lever.name.removeprefix("hsds ").split("=")
        assert str(getattr(lever.settings, key)) == value and lever.settings != Method()


def test_a_change_of_settings_is_the_default_but_for_what_it_says() -> None:
    its = changed("steps=3, image_half=none,free_guidance=2")
    assert its.settings == replace(Method(), steps=3, image_half="none", free_guidance=2.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [("stops=3", "'stops' is no setting"), ("steps", "invalid literal"), ("steps=0", "method.steps is 0")],
)
def test_a_change_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        changed(text)


def test_sparing_the_other_attributes_turns_the_edit(backbone: Sd3Backbone) -> None:
    plain = run(Contender("eim", "eim", FAST), backbone, CASES, batch=3)[0]
    spared = run(Contender("others spared", "eim", Spared(FAST)), backbone, CASES, batch=3)[0]
    assert (plain.pixels != spared.pixels).any((1, 2, 3)).all()


def test_levers_of_wording_are_named_by_what_they_change() -> None:
    first, *levers = wording_contenders(FAST)
    assert first.settings == FAST and len({str(lever.content) for lever in levers}) == len(levers) == 5
