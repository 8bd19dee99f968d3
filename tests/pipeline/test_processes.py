"""Work on buckets in several processes: the same results, errors and counts as in one."""

import os
import subprocess
import sys
import time

import pytest

from pipeline import processes, storage_metrics
from pipeline.processes import in_processes
from pipeline.retrying import StorageError
from tests import REPOSITORY
from tests.processes import family, kill, lives


def square(number: int) -> int:
    return number * number


def where(_: int) -> int:
    return os.getpid()


def refused(number: int) -> int:
    if number == 3:
        raise StorageError("bucket 3: refused")
    return number


def retried_once(number: int) -> int:
    storage_metrics.count(storage_metrics.RETRIES, "get", "SlowDown")
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
    storage_metrics.untold()
    assert list(in_processes(retried_once, range(5), rows=5)) == list(range(5))
    assert storage_metrics.untold() == {(storage_metrics.RETRIES, "get", "SlowDown"): 5}


WAITING = """
import time
from pipeline import processes
processes._ROWS, processes._MOST = 0, 2
for done in processes.in_processes(time.sleep, [0.0, 0.0, {last}], rows=3):
    print("ready", flush=True)
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core, one process")
def test_no_process_outlives_a_parent_that_is_killed() -> None:
    # At the end one of them works and the other waits for work.
    command = [sys.executable, "-c", WAITING.format(last=600.0)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children: list[int] = []
        try:
            assert [parent.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            children = family(parent.pid)[1:]
            assert len(children) >= 2
            parent.kill()
            deadline = time.monotonic() + 20
            while left := [child for child in children if lives(child)]:
                assert time.monotonic() < deadline, f"{len(left)} of {len(children)} processes live on"
                time.sleep(0.1)
        finally:
            parent.kill()
            kill(children)
