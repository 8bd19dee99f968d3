"""The arithmetic of figures, without the runs behind them."""

import math

import pytest

from benchmarks.growth import deviation, marginal_seconds, most_growth
from benchmarks.speedups import quality_told
from benchmarks.sweep import single_edits


def test_growth_of_time_is_of_what_each_size_adds() -> None:
    assert marginal_seconds((100, 1_000, 10_000), (5.0, 14.0, 194.0)) == pytest.approx([0.01, 0.02])
    assert deviation([0.02, 0.01]) == deviation([0.01, 0.02]) == 2
    assert deviation([0.01, -0.001]) == math.inf, "a negative ratio must not pass as small"


def test_growth_of_memory_is_the_worst_step() -> None:
    assert most_growth([100.0, 150.0, 165.0]) == pytest.approx(1.5)


def test_a_quality_that_is_lower_is_told_with_by_how_much() -> None:
    ours, theirs = {"success": 0.877, "kept": 0.978}, {"success": 0.88, "kept": 0.978}
    assert quality_told(ours, theirs) == (
        "recorded success 0.877 against 0.880, kept 0.978 against 0.978: ours success 0.003 lower"
    )
    assert quality_told(theirs, ours).endswith("ours equal or better")


def test_single_edits_are_spread_and_all_thirty_are_different() -> None:
    few = [edit for (edit,) in single_edits(4)]
    assert len({edit["attribute"] for edit in few}) == 4
    strengths = [strength for edit in few for strength in edit["strengths"]]
    assert (min(strengths), max(strengths), len(set(strengths))) == (-1.0, 1.5, 4)
    every = {(edit["attribute"], tuple(edit["strengths"])) for (edit,) in single_edits(30)}
    assert len(every) == 30
