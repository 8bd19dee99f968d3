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
    if _is_lost(error):
        os._exit(1)


def _is_lost(error: Exception) -> bool:
    torch = _torch()
    if torch is None:
        return False
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def is_of_device(error: Exception) -> bool:
    """Whether a device is broken or cannot be had. torch tells only some of that by a type of its own."""
    return _is_lost(error) or (isinstance(error, RuntimeError) and "CUDA" in str(error))


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
