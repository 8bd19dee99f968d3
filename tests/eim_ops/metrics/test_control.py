import pytest
import torch

from eim_ops.metrics.control import pearson, triangle_deficit


def test_proportion_is_one_whatever_its_sign_and_nothing_below_three_strengths() -> None:
    assert pearson([-1, 0, 1], [0.2, 0.4, 0.6]) == pytest.approx(1)
    assert pearson([-1, 0, 1], [0.6, 0.4, 0.2]) == pytest.approx(-1)
    assert pearson([0, 1], [0.1, 0.9]) is None
    assert pearson([0, 1, 2], [0.5, 0.5, 0.5]) is None


def test_a_straight_path_has_no_deficit_and_an_undone_step_has_all() -> None:
    a, b = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    assert triangle_deficit(torch.stack([a, 0.5 * b, b, 3 * b])) == pytest.approx(0, abs=1e-6)
    assert triangle_deficit(torch.stack([a, b, a])) == pytest.approx(1)
    assert triangle_deficit(torch.stack([a, a, a])) == 0
    assert triangle_deficit(torch.stack([a, b])) is None
