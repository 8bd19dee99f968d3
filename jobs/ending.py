"""How a job ends before its work is done: it refuses, or Ray or a signal stops it; each by a word and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from jobs.refusal import refuse
from jobs.stopping import stopping
from pipeline.recipe import RecipeError

if TYPE_CHECKING:
    from pipeline.run_edit import Interrupted


_BAD_PLACES = (PermissionError, NotADirectoryError, FileExistsError)
"""Of an output without the right, or one that is a file."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """While the block runs, what a job refuses ends the command with exit code 2, what Ray ends with 1, and SIGINT and
    SIGTERM with their own, by typer.Exit."""
    # Ray and the rest take seconds to import: a wrong recipe is told before.
    import ray

    from pipeline.ledger import FingerprintError
    from pipeline.model_loading import ModelError
    from pipeline.placement import PlacementError
    from pipeline.retrying import StorageError
    from pipeline.run_edit import ClusterError, Interrupted

    with stopping() as stop:
        try:
            yield
        except (*_BAD_PLACES, RecipeError, FingerprintError, PlacementError, StorageError, ModelError) as error:
            refuse(error)
        except ClusterError as error:
            refuse(error, 1)
        except KeyboardInterrupt as interrupt:
            # First the word: `ray job stop` gives three seconds.
            _show_stop(interrupt if isinstance(interrupt, Interrupted) else None)
            ray.shutdown()
            raise typer.Exit(stop.exit_code) from None


def _show_stop(interrupted: "Interrupted | None") -> None:
    """What was done before a signal, and how it goes on."""
    done = "nothing was made yet"
    if interrupted is not None:
        counts = interrupted.counts
        done = f"{counts.edits} edits and {counts.failures} failures of this run are written"
    print(f"stopped: {done}; the same command goes on from there", file=sys.stderr, flush=True)
