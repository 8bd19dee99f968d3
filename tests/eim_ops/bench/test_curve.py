import pytest
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.bench.curve import cost_at, lowest_curve

POINTS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8)


def test_between_two_points_the_cost_is_their_mixture() -> None:
    assert cost_at([(0, 0), (1, 2)], 0.5) == pytest.approx(1)
    assert cost_at([(0, 0), (0.5, 5), (1, 2)], 0.5) == pytest.approx(1), "a bad setting is not taken"


def test_what_no_point_reaches_has_no_cost() -> None:
    assert cost_at([(0, 0), (1, 2)], 1.01) is None
    assert cost_at([], 0) is None


def test_doing_more_at_less_cost_counts() -> None:
    assert cost_at([(0.5, 3), (1, 1)], 0.6) == 1


@given(POINTS)
def test_no_point_lies_below_the_curve_and_its_corners_are_points(points: list[tuple[float, float]]) -> None:
    assert set(lowest_curve(points)) <= set(points)
    for effect, cost in points:
        least = cost_at(points, effect)
        assert least is not None and least <= cost + 1e-9


@given(POINTS, st.floats(0, 10))
def test_more_settings_never_cost_more(points: list[tuple[float, float]], effect: float) -> None:
    fewer, all_of_them = cost_at(points[:-1], effect), cost_at(points, effect)
    if fewer is not None:
        assert all_of_them is not None and all_of_them <= fewer + 1e-9
