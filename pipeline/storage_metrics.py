"""Counters of what storage had to bear: for Prometheus through Ray, and for the run's summary."""

import sys
import threading
from collections import Counter
from functools import cache
from typing import Any

RETRIES, ERRORS = "eim_storage_retries_total", "eim_storage_errors_total"
_TELLS = {RETRIES: "Calls of storage that failed and were made again", ERRORS: "Calls of storage that failed for good"}

Borne = Counter[tuple[str, str, str]]
"""(counter, operation, error) -> how often."""
_untold: Borne = Counter()
_lock = threading.Lock()


@cache
def _exported(name: str) -> Any:
    from ray.util.metrics import Counter as RayCounter

    return RayCounter(name, _TELLS[name], tag_keys=("operation", "error"))


def count(name: str, operation: str, error: str) -> None:
    """Add one to RETRIES or ERRORS; Ray exports it where this process is connected."""
    take(Counter({(name, operation, error): 1}))


def take(borne: Borne) -> None:
    """Add what another process counted that is not connected, and tells nobody else; or this one, now."""
    with _lock:
        _untold.update(borne)
    ray = sys.modules.get("ray")  # storage is usable without it, and imports it for nobody
    if ray is not None and ray.is_initialized():
        for (name, operation, error), times in borne.items():
            _exported(name).inc(times, tags={"operation": operation, "error": error})


def untold() -> Borne:
    """What was counted in this process since the last call."""
    with _lock:
        told = _untold.copy()
        _untold.clear()
    return told
