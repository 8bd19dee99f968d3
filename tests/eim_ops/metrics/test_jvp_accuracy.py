from typing import Any

import pytest
import torch

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.metrics.jvp_accuracy import measure_jvp
from tests.eim_ops.conftest import tiny_sd3


def in_dtype(name: str) -> Sd3Backbone:
    pipeline = tiny_sd3().pipeline.to(dtype=getattr(torch, name))
    return Sd3Backbone(pipeline, "tiny-sd3", "0")


def test_forward_mode_is_the_exact_one_and_differences_do_only_in_float32() -> None:
    report = measure_jvp(in_dtype, ["a portrait with broad smile"] * 2, repeats=1)
    single, half = report["float32"], report["bfloat16"]
    assert single["forward mode"]["error"] < 1e-4
    assert single["differences of 0.01"]["error"] < 1e-2
    assert half["forward mode"]["error"] < 0.1 < half["differences of 0.001"]["error"]
    assert all(way["forwards"] > 0 for ways in report.values() for way in ways.values())


def test_differences_are_of_convolutions_in_full_float32(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    velocity, allowed = backbone._velocity, []

    def watched(*arguments: Any) -> torch.Tensor:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return velocity(*arguments)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(backbone, "_velocity", watched)
    x, conditioning = torch.ones(1, 8, 16, 16), backbone.encode_text([""])
    backbone.jvp(x, torch.tensor(0.5), conditioning, x)
    backbone.velocity(x, torch.tensor(0.5), conditioning)
    assert allowed == [False, False, True]


def test_the_sd3_family_takes_the_cheaper_exact_way_of_its_dtype() -> None:
    assert in_dtype("float32").jvp_step == 1e-2
    assert in_dtype("bfloat16").jvp_step is None
