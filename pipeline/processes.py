"""Work on many buckets in several processes: what it takes is Python's own time, of which threads share one core."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from pipeline import storage_metrics

_T = TypeVar("_T")
_R = TypeVar("_R")

_ROWS = 50_000
"""From so many on it pays: a process takes a second to start."""
_MOST = 8


def in_processes(call: Callable[[_T], _R], items: Sequence[_T], rows: int) -> Iterator[_R]:
    """`call` of each item, in order, as they come; the first error is raised.

    `rows`: how many the items hold together; where they are few, this process does all. `call`, items and results are
    pickled. A process has what one item needs in memory, and no more. What storage had to bear there counts here. The
    processes end with this one, however it ends.
    """
    processes = min(len(os.sched_getaffinity(0)), _MOST, len(items))
    if rows < _ROWS or processes < 2:
        yield from map(call, items)
        return
    # Forked threads of Ray or s3fs would hold their locks for ever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _follow_the_parent)
    try:
        for result, borne in pool.map(partial(_with_borne, call), items):
            storage_metrics.take(borne)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _with_borne(call: Callable[[_T], _R], item: _T) -> tuple[_R, storage_metrics.Borne]:
    return call(item), storage_metrics.untold()


def _follow_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What waits for work never hears of a parent that was killed: each process holds an end of the queue open.
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in the processes of the pool alone"
    parent.join()
    os._exit(1)
