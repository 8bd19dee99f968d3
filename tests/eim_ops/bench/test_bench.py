from typing import Any

import numpy as np
import pytest

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.bench.cases import draw_cases, sources, truths
from eim_ops.bench.contenders import CEILING, CONTENDERS, Contender, Edited, run
from eim_ops.bench.measure import measure
from eim_ops.bench.summary import control, summarise
from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME
from eim_ops.faces.grammar import aligned
from eim_ops.faces.judge import load_judge
from eim_ops.method import Method

CASES = draw_cases(24)


def test_cases_cover_all_attributes_ask_for_a_change_and_are_the_same_again() -> None:
    assert {case.attribute for case in CASES} == {attribute.name for attribute in ATTRIBUTES}
    assert draw_cases(30)[:24] == CASES
    for case in CASES:
        assert BY_NAME[case.attribute].index(getattr(case.face, case.attribute)) != case.index
        assert 1 <= len(aligned(case.source_prompt, case.target_prompt)) <= 2


def test_perfect_edits_score_full_and_no_edits_score_none() -> None:
    judge, before, wanted = load_judge(), sources(CASES), truths(CASES)
    perfect = measure(judge, CASES, Edited(1.0, wanted, 0.0), before, wanted)
    nothing = measure(judge, CASES, Edited(1.0, before, 0.0), before, wanted)
    figures = ("success", "kept", "on_target", "off_target", "psnr_true")
    mean = {name: [np.mean([row[name] for row in rows]) for rows in (perfect, nothing)] for name in figures}
    assert mean["success"][0] > 0.9 and mean["success"][1] == 0
    assert mean["kept"] == [pytest.approx(1.0, abs=0.01), 1.0]
    assert mean["on_target"][0] > 0.5 and mean["on_target"][1] == 0
    assert mean["off_target"][0] < 0.1 and mean["off_target"][1] == 0
    assert mean["psnr_true"][0] == 100 > mean["psnr_true"][1]


@pytest.mark.parametrize(
    "contender",
    [CEILING, CONTENDERS["flowedit_3"], Contender("ours", method=Method(steps=2, draws=1))],
    ids=lambda c: c.name,
)
def test_each_kind_of_contender_edits_every_case(contender: Contender, backbone: Sd3Backbone) -> None:
    edited = run(contender, backbone, CASES[:3], [0.5, 1.0], batch=2)
    assert [one.strength for one in edited] == ([0.5, 1.0] if contender.method else [1.0])
    assert all(one.pixels.shape == (3, 64, 64, 3) for one in edited)
    assert (edited[0].evaluations == 0) == (contender is CEILING)


def row(method: str, **changes: Any) -> dict[str, Any]:
    figures = {"success": True, "kept": 1.0, "on_target": 1.0, "off_target": 0.1, "psnr_true": 30.0}
    cost = {"evaluations": 80.0, "seconds": 1.0}
    neutral = {"method": method, "case": 0, "kind": "continuous", "strength": 1.0, "reading": 0.5, **figures, **cost}
    return {**neutral, **changes}


def test_ours_is_compared_with_the_best_rival_that_succeeds_as_often() -> None:
    rows = [
        row("eim", psnr_true=29.0, evaluations=40.0),
        row("eim_dds"),  # an ablation is no rival
        row("flowedit_3", psnr_true=26.0),
        row("sdedit_0.6", success=False, psnr_true=35.0),  # barely edits
    ]
    eim = summarise(rows)["eim"]
    assert eim["psnr_gain_over_best_peer_db"] == pytest.approx(3.0)
    assert eim["nfe_ratio_to_flowedit"] == pytest.approx(0.5)
    assert eim["hsds_over_dds_joint"] is None


def test_control_is_the_correlation_of_strength_and_reading_whatever_its_sign() -> None:
    falling = [row("eim", strength=s, reading=0.8 - 0.2 * s) for s in (0.0, 0.5, 1.0)]
    assert control(falling, "eim") == pytest.approx(1.0)
    assert control(falling[:2], "eim") is None
    noise = np.random.default_rng(0).random(50)
    random = [row("eim", case=1, strength=float(i), reading=float(r)) for i, r in enumerate(noise)]
    assert (control(random, "eim") or 0) < 0.5
