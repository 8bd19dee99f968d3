"""Counters of what storage had to bear, for Prometheus through Ray, and for this process alone without Ray."""

import sys
from collections import Counter
from functools import cache
from typing import Any

RETRIES, ERRORS = "eim_storage_retries_total", "eim_storage_errors_total"
_TELLS = {RETRIES: "Calls of storage that failed and were made again", ERRORS: "Calls of storage that failed for good"}

counted: Counter[tuple[str, str, str]] = Counter()
"""(counter, operation, error) -> how often in this process."""


@cache
def _exported(name: str) -> Any:
    from ray.util.metrics import Counter as RayCounter

    return RayCounter(name, _TELLS[name], tag_keys=("operation", "error"))


def count(name: str, operation: str, error: str) -> None:
    """Add one to RETRIES or ERRORS; Ray exports it where this process is connected."""
    counted[name, operation, error] += 1
    ray = sys.modules.get("ray")  # storage is usable without it, and imports it for nobody
    if ray is not None and ray.is_initialized():
        _exported(name).inc(tags={"operation": operation, "error": error})
