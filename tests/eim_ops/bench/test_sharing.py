from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from eim_ops.backbones.base import Backbone
from eim_ops.bench import sharing
from eim_ops.bench.cases import draw_cases
from eim_ops.faces.judge import load_judge
from eim_ops.method import Method
from eim_ops.named_models import load_backbone
from eim_ops.task import EditedImage

CASES = draw_cases(3, "correlated", "test")
METHOD = Method(steps=2, draws=1)


@pytest.fixture(scope="module")
def mini_dit() -> Backbone:
    return load_backbone("mini-dit", device="cpu")


def test_own_and_shared_directions_are_compared_over_each_number_of_images(
    mini_dit: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Mapping[str, torch.Tensor] | None] = []
    edited: list[np.ndarray] = []
    edit_images = sharing.edit_images

    def watched(*arguments: Any) -> Iterator[EditedImage]:
        given.append(arguments[-1])
        made = list(edit_images(*arguments))
        edited.append(np.stack([one.pixels for one in made]))
        return iter(made)

    monkeypatch.setattr(sharing, "edit_images", watched)
    figures = sharing.compare_sharing(mini_dit, load_judge(), CASES, [1, 2], METHOD, batch=2)
    ways = ("own", "shared over 1", "shared over 2")
    kinds = [f"{half}, {way}" for half in ("both halves", "image half alone") for way in ways]
    assert list(figures) == ["text half alone", *kinds]
    assert all(set(its) == set(sharing._FIGURES) and np.isfinite(list(its.values())).all() for its in figures.values())

    assert [its is None for its in given] == [True, True, False, False, True, False, False]
    halves = sharing._sample_halves(mini_dit, CASES, 2, METHOD, batch=2)
    assert all((its.flatten(1).norm(dim=1) > 0).all() for its in halves.values()), "of faces that change alone"
    assert given[2] is not None and given[3] is not None and halves.keys() == {case.clause for case in CASES}
    for clause, its in halves.items():
        assert torch.equal(given[2][clause], its[:1]) and torch.allclose(given[3][clause], (its[:1] + its[1:]) / 2)
    assert all((edited[4] != other).any() for other in (edited[0], *edited[5:])), "another direction, another image"
