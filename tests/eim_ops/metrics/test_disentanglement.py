from types import SimpleNamespace

import numpy as np
import pytest

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.method import Method
from eim_ops.metrics.disentanglement import disentanglement, measure_disentanglement, text_conditions

METHOD = Method(steps=2, draws=1, guidance=1.0)
IMAGES = list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
PROMPTS = ["a portrait with young age, pale skin", "a portrait with old age, tan skin"]
AGE = ["a portrait with old age, pale skin", "a portrait with young age, tan skin"]
SKIN = ["a portrait with young age, tan skin", "a portrait with old age, pale skin"]


def test_the_matrix_is_the_others_change_per_unit_of_the_asked_one() -> None:
    found = disentanglement(
        ["a", "a", "b"], np.array([1.0, 3.0, 2.0]), np.array([[1, 0], [3, 1], [0.5, 2]]), ["a", "b"]
    )
    assert found.matrix == pytest.approx(np.array([[1, 0.25], [0.25, 1]]))
    assert found.degree == pytest.approx(0.75)


def test_what_never_moved_the_asked_way_is_unknown_and_not_counted() -> None:
    found = disentanglement(["a", "b"], np.array([-0.1, 2.0]), np.array([[0.1, 1], [1, 2.0]]), ["a", "b"])
    assert np.isnan(found.matrix[0]).all() and found.degree == pytest.approx(0.5)
    assert np.isnan(disentanglement(["a"], np.array([0.0]), np.array([[0.0, 1.0]]), ["a", "b"]).degree)


def test_perfect_edits_have_degree_one() -> None:
    assert disentanglement(["a", "b"], np.ones(2), np.eye(2), ["a", "b"]).degree == 1


def brightness(pixels: np.ndarray) -> np.ndarray:
    """Mean red and green: two attributes that any image has."""
    return pixels.astype(np.float64).mean((1, 2))[:, :2] / 50


def test_any_backbone_is_measured_with_any_reader(backbone: Sd3Backbone) -> None:
    targets = [{"red": a, "green": b} for a, b in zip(AGE, SKIN, strict=True)]
    found = measure_disentanglement(backbone, IMAGES, PROMPTS, targets, brightness, ["red", "green"], METHOD, batch=2)
    assert list(found) == ["text", "image", "joint"]
    assert all(its.matrix.shape == (2, 2) and np.isfinite(its.degree) for its in found.values())
    assert found["text"].matrix != pytest.approx(found["image"].matrix)


def test_a_changed_text_condition_moves_what_an_unchanged_one_leaves(backbone: Sd3Backbone) -> None:
    pairs = list(zip(AGE, SKIN, strict=True))
    found = text_conditions(backbone, IMAGES, PROMPTS, pairs, METHOD, batch=2)
    same = text_conditions(backbone, IMAGES, PROMPTS, [(p, p) for p in PROMPTS], METHOD, batch=2)
    assert found.effectiveness > 10 * same.effectiveness


def test_effects_that_add_have_decomposability_one_and_what_is_lost_between_them_counts_against(
    backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (100, 160)])
    monkeypatch.setattr("eim_ops.metrics.disentanglement.round_trips", lambda *_: start)
    for both, decomposability in ((30, 1.0), (20, 0.5)):
        moves = {"0": 10, "1": 20, "both": both}
        edited = [
            SimpleNamespace(row=row, edit_id=edit, pixels=pixels + by, finite=True)
            for row, pixels in enumerate(start)
            for edit, by in moves.items()
        ]
        monkeypatch.setattr("eim_ops.metrics.disentanglement.edit_images", lambda *_, its=edited: its)
        found = text_conditions(backbone, list(start), PROMPTS, list(zip(AGE, SKIN, strict=True)), METHOD, batch=2)
        assert found.decomposability == pytest.approx(decomposability)
        assert found.effectiveness == pytest.approx(15 / 60)
