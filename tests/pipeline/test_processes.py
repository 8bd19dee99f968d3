"""Work on buckets in several processes: the same results, errors and counts as in one."""

import os

import pytest

from pipeline import metrics, processes
from pipeline.processes import in_processes
from pipeline.retrying import StorageError


def square(number: int) -> int:
    return number * number


def where(_: int) -> int:
    return os.getpid()


def refused(number: int) -> int:
    if number == 3:
        raise StorageError("bucket 3: refused")
    return number


def retried_once(number: int) -> int:
    metrics.count(metrics.RETRIES, "get", "SlowDown")
    return number


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_ROWS", 0)
    monkeypatch.setattr(processes, "_MOST", 2)


def test_few_rows_stay_in_this_process() -> None:
    assert set(in_processes(where, range(4), rows=4)) == {os.getpid()}


@pytest.mark.usefixtures("two_processes")
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core, one process")
def test_results_come_in_order_from_other_processes() -> None:
    assert list(in_processes(square, range(20), rows=20)) == [number**2 for number in range(20)]
    assert os.getpid() not in set(in_processes(where, range(4), rows=4))


@pytest.mark.usefixtures("two_processes")
def test_an_error_of_a_process_is_raised_as_it_was() -> None:
    with pytest.raises(StorageError, match="bucket 3: refused"):
        list(in_processes(refused, range(8), rows=8))


@pytest.mark.usefixtures("two_processes")
def test_what_storage_bore_in_other_processes_counts_here() -> None:
    metrics.untold()
    assert list(in_processes(retried_once, range(5), rows=5)) == list(range(5))
    assert metrics.untold() == {(metrics.RETRIES, "get", "SlowDown"): 5}
