from typing import Any

import numpy as np
import pytest

from eim_ops.bench.summary import by_case, summarise
from eim_ops.faces.attributes import ATTRIBUTES


def row(method: str, family: str = "eim", **changes: Any) -> dict[str, Any]:
    neutral = {
        "method": method, "family": family, "case": 0, "attribute": "smile", "kind": "continuous", "strength": 1.0,
        "success": 1.0, "kept": 1.0, "on_target": 1.0, "off_target": 0.1, "changes": [0.1] * len(ATTRIBUTES),
        "reading": 0.5, "psnr_true": 30.0, "triangle_deficit": None, "evaluations": 80.0, "seconds": 1.0,
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


def test_control_is_the_correlation_of_strength_and_reading_in_each_case() -> None:
    falling = [row("eim", strength=s, reading=0.8 - 0.2 * s) for s in (0.0, 0.5, 1.0)]
    assert by_case(falling, "eim") == [pytest.approx(1.0)]
    assert by_case(falling[:2], "eim") == []
    readings = np.random.default_rng(0).random(50)
    random = [row("eim", case=1, strength=float(i), reading=float(r)) for i, r in enumerate(readings)]
    assert by_case(random, "eim")[0] < 0.5


def test_the_disentanglement_of_a_half_is_that_of_its_ablation() -> None:
    changes = [0.0] * len(ATTRIBUTES)
    rows = [UNEDITED, row("eim"), row("text_half", changes=changes), row("image_half_hsds")]
    found = summarise(rows)["disentanglement"]
    assert found["text"]["degree"] == 1 and found["joint"]["degree"] == pytest.approx(0.9)
    assert found["image"]["degree"] == pytest.approx(0.9)
