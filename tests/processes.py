"""Processes that tests started, and theirs."""

import contextlib
import time
from collections.abc import Iterable

import psutil


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended; what has ended may stay a zombie, where nobody reaps it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def family(pid: int) -> list[int]:
    """A process with its children and theirs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def kill(pids: Iterable[int]) -> None:
    """SIGKILL, and wait until they have ended."""
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
            processes[-1].kill()
    while any(lives(process.pid) for process in processes):
        time.sleep(0.05)
