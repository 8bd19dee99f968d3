"""Figures: bars, files and the table."""

from pathlib import Path

import pytest

from benchmarks.figure import Figure, load, save, table


@pytest.mark.parametrize(
    ("value", "side", "met"),
    [(0.9, "floor", True), (0.89, "floor", False), (0.9, "ceiling", True), (1, "ceiling", False)],
)
def test_a_bar_is_a_floor_or_a_ceiling_and_holds_itself(value: float, side: str, met: bool) -> None:
    assert Figure(value, "how", 0.9, side).met is met  # type: ignore[arg-type]


def test_a_figure_without_a_bar_is_neither_met_nor_missed() -> None:
    assert Figure(1.0, "how").met is None


def test_figures_come_back_from_their_file(tmp_path: Path) -> None:
    figures = {"speed": Figure(2.0, "twice", 1.3, parts={"a": 1}), "shown": Figure(3.0, "alone")}
    save(tmp_path / "x.json", figures)
    assert load(tmp_path / "x.json") == figures
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_the_table_says_which_bars_are_missed() -> None:
    shown = table({"speed": Figure(1.2, "twice", 1.3), "spill": Figure(0, "none", 0, "ceiling")})
    assert "| `speed` | 1.2 | ≥ 1.3 | **no** | twice |" in shown
    assert "| `spill` | 0 | ≤ 0 | yes | none |" in shown
