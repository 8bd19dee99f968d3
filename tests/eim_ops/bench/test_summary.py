from typing import Any

import numpy as np
import pytest

from eim_ops.bench.summary import by_case, summarise
from eim_ops.faces.attributes import ATTRIBUTES


def row(method: str, family: str = "eim", **changes: Any) -> dict[str, Any]:
    neutral = {
        "method": method, "family": family, "case": 0, "attribute": "smile", "kind": "continuous", "strength": 1.0,
        "success": 1.0, "kept": 1.0, "on_target": 1.0, "off_target": 0.1, "changes": [0.1] * len(ATTRIBUTES),
        "reading": 0.5, "psnr_true": 30.0, "triangle_deficit": None, "direction_method": "dds", "evaluations": 80.0,
        "seconds": 1.0,
    }  # fmt: skip
    return {**neutral, **changes}


UNEDITED = row("unedited", "round_trip", success=0.0, on_target=0.0, off_target=0.0, psnr_true=20.0)


def test_ours_is_compared_with_the_best_peer_at_equal_effect() -> None:
    eim = summarise([
        UNEDITED,
        row("eim", success=0.8, on_target=1.0, off_target=0.05, psnr_true=29.0, evaluations=40.0),
        row("flowedit last=9", "flowedit", on_target=2.0, off_target=0.2, psnr_true=25.0),
        row("sdedit strength=0.5", "sdedit", success=0.4, on_target=0.9, off_target=0.01, psnr_true=35.0),
    ])["eim"]  # fmt: skip
    assert eim["off_target_ratio_to_best_peer"] == pytest.approx(0.5), "halfway between FlowEdit and no edit"
    assert eim["psnr_gain_over_best_peer_db"] == pytest.approx(4.0), "29 dB against 25: FlowEdit at its own setting"
    assert eim["nfe_ratio_to_flowedit"] == pytest.approx(0.5)


def test_a_peer_that_never_gets_there_is_told_and_not_counted() -> None:
    found = summarise([UNEDITED, row("eim"), row("sdedit strength=0.5", "sdedit", success=0.4, on_target=0.5)])
    assert found["peers"]["sdedit"] == {"off_target": None, "psnr_true": None}
    assert found["eim"]["off_target_ratio_to_best_peer"] is None


def test_hsds_is_compared_with_dds_at_equal_effect_and_with_the_default_where_that_is_dds() -> None:
    rows = [
        UNEDITED,
        row("eim", on_target=2.0, off_target=0.4),
        row("joint_hsds", on_target=1.0, off_target=0.1),
    ]
    assert summarise(rows)["eim"]["hsds_over_dds_joint"] == pytest.approx(0.5)
    assert summarise(rows)["eim"]["hsds_over_dds_image_half"] is None


def test_an_image_half_is_compared_where_both_reach() -> None:
    rows = [
        UNEDITED,
        row("image_half_hsds", on_target=0.1, off_target=0.01),
        row("image_half_hsds", strength=20.0, on_target=0.6, off_target=0.06),
        row("image_half_dds", on_target=0.05, off_target=0.01),
        row("image_half_dds", strength=20.0, on_target=0.3, off_target=0.06),
    ]
    assert summarise(rows)["eim"]["hsds_over_dds_image_half"] == pytest.approx(0.5), "at .3 spreads"


def test_the_part_of_directions_that_hsds_gave_is_told() -> None:
    methods = ["hsds", "dds", "hsds", "hsds"]
    rows = [row("joint_hsds", case=case, direction_method=method) for case, method in enumerate(methods)]
    assert summarise([UNEDITED, row("eim"), *rows])["eim"]["hsds_accepted"] == 0.75


def test_seconds_are_those_of_the_middle_case() -> None:
    rows = [row("eim", case=case, seconds=seconds) for case, seconds in enumerate((1.0, 2.0, 30.0))]
    assert summarise([UNEDITED, *rows])["methods"]["eim"]["seconds_per_edit"] == 2


def test_control_is_the_correlation_of_strength_and_the_change_asked_for_in_each_case() -> None:
    def lines(*changes: float) -> list[float]:
        return by_case([row("eim", strength=float(s), on_target=c) for s, c in enumerate(changes)], "eim")

    assert lines(0, 1, 2) == [pytest.approx(1.0)]
    assert lines(0, -1, -2) == [pytest.approx(-1.0)], "the wrong way"
    assert lines(0, 0, 0) == [0.0], "no way"
    assert lines(0, 1) == []
    assert abs(lines(*np.random.default_rng(0).random(50))[0]) < 0.5


def test_the_disentanglement_of_a_half_is_that_of_its_ablation() -> None:
    changes = [0.0] * len(ATTRIBUTES)
    rows = [UNEDITED, row("eim"), row("text_half", changes=changes), row("image_half_hsds")]
    found = summarise(rows)["disentanglement"]
    assert found["text"]["degree"] == 1 and found["joint"]["degree"] == pytest.approx(0.9)
    assert found["image"]["degree"] == pytest.approx(0.9)
    assert found["joint"]["method"] == "eim" and found["joint"]["rows_moved"] == 1
    unmoved = summarise([UNEDITED, row("eim"), row("text_half", on_target=-0.1)])["disentanglement"]["text"]
    assert (unmoved["degree"], unmoved["rows_moved"], unmoved["matrix"][0][1]) == (None, 0, None)


def test_evaluations_are_held_against_the_cheapest_point_of_flowedit_that_does_as_well() -> None:
    rows = [
        UNEDITED,
        {**row("eim", psnr_true=30.0), "evaluations": 27},
        {**row("flowedit many", "flowedit", psnr_true=31.0), "evaluations": 56},
        {**row("flowedit few", "flowedit", psnr_true=30.5), "evaluations": 28},
        {**row("flowedit too few", "flowedit", psnr_true=29.0), "evaluations": 14},
    ]
    assert summarise(rows)["eim"]["nfe_ratio_to_flowedit"] == pytest.approx(27 / 28)
    assert summarise([*rows[:3], rows[4]])["eim"]["nfe_ratio_to_flowedit"] == pytest.approx(27 / 56)
    assert summarise([*rows[:2], rows[4]])["eim"]["nfe_ratio_to_flowedit"] == pytest.approx(27 / 14)
