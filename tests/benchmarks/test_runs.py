"""Clocks and runs: what a warm time counts, and what a cold one is made of."""

import time
from pathlib import Path

import pytest

from benchmarks import clock
from benchmarks.cold_start import parts_of
from benchmarks.runs import Run, blots, edits


def run_with(**events: list[float]) -> Run:
    return Run(20.0, events, {})


def test_a_warm_time_begins_when_the_last_model_is_loaded() -> None:
    assert run_with(**{"loaded": [5.0, 7.0], "run-ends": [17.0]}).warm == 10


def test_a_rival_that_loads_before_it_begins_is_counted_from_its_beginning() -> None:
    assert run_with(loaded=[2.0, 3.0], begins=[4.0], ends=[9.0]).warm == 5


def test_a_rival_that_loads_later_is_counted_from_its_last_load() -> None:
    assert run_with(loaded=[6.0, 7.0], begins=[4.0], ends=[9.0]).warm == 2


def test_events_are_told_in_the_order_of_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(clock.FOLDER, str(tmp_path))
    before = time.time()
    clock.note("loaded")
    clock.note("loaded")
    clock.wait_for("loaded", 2)
    first, second = clock.times(tmp_path, "loaded")
    assert before <= first <= second <= time.time()
    assert clock.times(tmp_path, "ended") == []


def test_without_a_folder_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(clock.FOLDER, raising=False)
    clock.note("loaded")
    clock.wait_for("loaded", 3)


def test_the_parts_of_a_cold_start_add_up_to_the_whole_process(tmp_path: Path) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "a.json").write_text("{}")
    names = ("driver-starts", "imported", "connected", "captioner-starts", "editor-starts", "loaded", "edit-begins")
    events = {name: [float(place)] for place, name in enumerate((*names, "edit-ends", "run-ends", "shut-down"))}
    run = Run(11.0, events, {"began": time.time() + 2})
    assert sum(parts_of(run, tmp_path).values()) == pytest.approx(11.0)


def test_edits_are_the_first_attributes_at_all_strengths() -> None:
    assert [len(edit["strengths"]) for edit in edits(2, [0.5, 1.0])] == [2, 2]
    assert len({edit["attribute"] for edit in edits(5, [1.0])}) == 5


def test_blots_are_all_different(tmp_path: Path) -> None:
    folder = blots(tmp_path, 20)
    assert len({path.read_bytes() for path in folder.iterdir()}) == 20
    assert blots(tmp_path, 20) == folder
