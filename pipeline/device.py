"""What errors of a device call for: another process, or a smaller batch."""

import gc
import os
import sys
from typing import Any


def _torch() -> Any:
    """torch, or None in a process that never imported it, whose errors are none of its."""
    return sys.modules.get("torch")


def leave_if_lost(error: Exception) -> None:
    """After a device error every later call of the process fails too: end it, so that Ray starts a fresh actor.

    The attempt marker of its rows stays, so that a row that always does this is set aside.
    """
    torch = _torch()
    if torch and isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        os._exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do. torch has no type of its own for the memory of a CPU."""
    torch = _torch()
    of_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_device or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Give back what nothing refers to any more, the caching allocator's blocks too."""
    gc.collect()
    torch = _torch()
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
