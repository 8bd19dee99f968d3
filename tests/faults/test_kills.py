"""Kills in whole jobs, a few of each kind; `make faults` runs every window with every victim."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import compactions
from tests.faults.cluster import Nodes, nodes
from tests.faults.kills import WINDOWS, Window, kill_in_window, kill_retrying, soak
from tests.faults.late import late_writers
from tests.faults.tripwire import Target

_BY_NAME = {window.name: window for window in WINDOWS}
_ASKED = 363


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as started:
        yield started


def _window(name: str, target: Target) -> object:
    return pytest.param(_BY_NAME[name], target, id=f"{target} {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "target"),
    [
        _window("after the settings, before the ask", "driver"),
        _window("while an image is loaded", "process"),
        _window("while an image is edited", "node"),
        _window("between two images of a write task", "head"),
        _window("between two buckets' parts", "process"),
        _window("after edits, before failures", "driver"),
        _window("between an attempt marker and its work", "driver"),
        _window("after the parts, before Ray hears of it", "process"),
        _window("after an increment's record, before its ask", "driver"),
        _window("before an increment's end is recorded", "driver"),
    ],
)
def test_a_kill_in_a_crash_window_loses_and_doubles_nothing(
    window: Window, target: Target, tmp_path: Path, cluster: Nodes
) -> None:
    found = kill_in_window(window, target, tmp_path, cluster)
    found.check()
    assert (found.asked, found.failures) == (_ASKED, 3)


@pytest.mark.slow
def test_kills_at_random_lose_and_double_nothing(tmp_path: Path, cluster: Nodes) -> None:
    found = soak(tmp_path, cluster, kills=8)
    found.check()
    assert found.kills >= 8


@pytest.mark.slow
def test_a_kill_under_retry_failed_loses_and_doubles_nothing(tmp_path: Path, cluster: Nodes) -> None:
    kill_retrying(tmp_path, cluster).check()


@pytest.mark.slow
@pytest.mark.parametrize("window", compactions.WINDOWS)
def test_a_kill_of_a_compaction_loses_and_doubles_nothing(window: str, tmp_path: Path) -> None:
    compactions.killed_compaction(window, tmp_path).check()


def test_late_writers_leave_the_view_as_it_is(tmp_path: Path) -> None:
    late_writers(tmp_path).check()
