"""Markers of attempts: a row that kills its process is found and set aside, its neighbours are not."""

import time
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import attempts as module
from pipeline.attempts import Attempts, forget_stale
from pipeline.storage import Store, open_store
from pipeline.work import Row
from tests.pipeline.builders import work_row

STAGE = "edit"


def rows(count: int = 16) -> list[Row]:
    return [work_row(sample_id=f"{index:02x}") for index in range(count)]


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class _Dying(Store):
    """A store of a process that is gone once a row killed it: what `finally` would remove stays."""

    def delete(self, key: str) -> None:
        if not getattr(_Dying, "dead", False):
            super().delete(key)


def in_processes(attempts: Attempts, rows: list[Row], poison: set[str], limit: int = 100) -> tuple[list[Row], int]:
    """What a stage gives in the end, and how many processes died until then."""

    def work(some: list[Row]) -> list[Row]:
        if poison & {row["sample_id"] for row in some}:
            _Dying.dead = True  # type: ignore[attr-defined]
            raise Killed
        return [{**row, "source_prompt": "done"} for row in some]

    for deaths in range(limit):
        _Dying.dead = False  # type: ignore[attr-defined]
        try:
            return attempts.guarded(STAGE, rows, work), deaths
        except Killed:
            continue
    raise AssertionError(f"not done after {limit} deaths")


def start(root: str, limit: int = 3, anew: bool = False) -> Attempts:
    return Attempts.start(_Dying(open_store(root).root), limit, anew)


def failed(done: list[Row]) -> dict[str, int]:
    return {row["sample_id"]: row["attempts"] for row in done if row["error_type"] == "ProcessDied"}


def test_a_stage_that_ends_well_leaves_no_marker(root: str) -> None:
    attempts = start(root)
    seen: list[list[str]] = []

    def work(some: list[Row]) -> list[Row]:
        seen.append(open_store(root).keys("attempts"))
        return some

    assert attempts.guarded(STAGE, rows(), work) == rows()
    assert len(seen) == 1  # all together
    assert len(seen[0]) == 1  # under one marker
    assert open_store(root).keys("attempts") == []


def test_an_error_that_python_can_catch_is_no_death(tmp_path: Path) -> None:
    def work(some: list[Row]) -> NoReturn:
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        start(str(tmp_path)).guarded(STAGE, rows(), work)
    assert open_store(str(tmp_path)).keys("attempts") == []


@pytest.mark.parametrize("poison", [{"07"}, {"00", "0f"}])
def test_only_rows_that_kill_are_set_aside_each_after_its_limit_alone(root: str, poison: set[str]) -> None:
    attempts = start(root)
    done, deaths = in_processes(attempts, rows(), poison)
    assert failed(done) == dict.fromkeys(poison, 3)
    assert {row["sample_id"] for row in done} == {row["sample_id"] for row in rows()}
    assert all(row["source_prompt"] == "done" for row in done if row["sample_id"] not in poison)
    assert deaths <= len(poison) * 5
    message = next(row["error_message"] for row in done if row["error_stage"])
    assert message == "the process died 3 times in edit while this image was alone in it; it was set aside"
    attempts.forget()
    assert open_store(root).keys("attempts") == []


def test_where_every_row_kills_every_row_is_set_aside(tmp_path: Path) -> None:
    done, _ = in_processes(start(str(tmp_path)), rows(), {row["sample_id"] for row in rows()})
    assert failed(done) == {row["sample_id"]: 3 for row in rows()}


def test_a_death_that_is_no_rows_fault_blames_nobody(tmp_path: Path) -> None:
    attempts = start(str(tmp_path))
    samples = [row["sample_id"] for row in rows()]
    for _ in range(10):
        _Dying.dead = True  # type: ignore[attr-defined]
        with attempts.marked(STAGE, samples):
            pass
    done, deaths = in_processes(attempts, rows(), set())
    assert (failed(done), deaths) == ({}, 0)


def test_the_next_run_counts_on_from_deaths_alone(tmp_path: Path) -> None:
    """A row that takes the whole machine down, and every driver with it."""
    runs = 0
    while True:
        runs += 1
        try:
            done, _ = in_processes(start(str(tmp_path)), rows(), {"07"}, limit=1)
        except AssertionError:
            continue
        break
    assert failed(done) == {"07": 3}
    assert runs == 6  # two among others, three alone, and the one that sets it aside


def test_rows_in_flight_when_a_whole_run_was_killed_are_tried_together_again(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        in_processes(start(str(tmp_path)), rows(), {"07"}, limit=1)
    sizes: list[int] = []

    def work(some: list[Row]) -> list[Row]:
        sizes.append(len(some))
        return some

    start(str(tmp_path)).guarded(STAGE, rows(), work)
    assert sizes == [16]


def test_another_stage_and_another_driver_are_not_counted(tmp_path: Path) -> None:
    one, other = start(str(tmp_path)), start(str(tmp_path))
    _Dying.dead = True  # type: ignore[attr-defined]
    for _ in range(3):
        with one.marked(STAGE, ["07"]):
            pass
    assert (one.deaths(STAGE, "07"), one.deaths("load", "07"), other.deaths(STAGE, "07")) == (3, 0, 0)


def test_asked_anew_a_row_is_tried_as_if_for_the_first_time(tmp_path: Path) -> None:
    done, _ = in_processes(start(str(tmp_path)), rows(1), {"00"})
    assert failed(done) == {"00": 3}
    done, deaths = in_processes(start(str(tmp_path), anew=True), rows(1), {"00"})
    assert (failed(done), deaths) == ({"00": 3}, 3)


def test_stale_markers_go_and_fresh_ones_stay(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _Dying.dead = True  # type: ignore[attr-defined]
    with start(root).marked(STAGE, ["07"]):
        pass
    store = open_store(root)
    forget_stale(store)
    assert len(store.keys("attempts")) == 1
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 2 * 86400)
    forget_stale(store)
    assert store.keys("attempts") == []
