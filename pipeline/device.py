"""What errors of a device call for: another process, or a smaller batch."""

import gc
import os


def leave_if_lost(error: Exception) -> None:
    """After a device error every later call of the process fails too: end it, so that Ray starts a fresh actor.

    The attempt marker of its rows stays, so that a row that always does this is set aside.
    """
    import torch

    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        os._exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do. torch has no type of its own for the memory of a CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Give back what nothing refers to any more, the caching allocator's blocks too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
