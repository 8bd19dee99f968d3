"""When things happened in the processes of one run: empty files named by event, whose text is the time.

Processes of one machine share its clock, so a folder is all that they need.
"""

import os
import time
import uuid
from pathlib import Path

FOLDER = "EIM_BENCH_CLOCK"
"""The environment variable that names the folder; without it nothing is noted."""
_POLL_SECONDS = 0.02


def note(event: str) -> None:
    """Note that `event` happens now; it may happen several times, in several processes."""
    if folder := os.environ.get(FOLDER):
        partial = Path(folder) / f".{uuid.uuid4().hex}"
        partial.write_text(repr(time.time()))
        partial.rename(Path(folder) / f"{event}.{uuid.uuid4().hex}")


def times(folder: Path, event: str) -> list[float]:
    """When `event` happened, in seconds since 1970, ascending."""
    return sorted(float(path.read_text()) for path in folder.glob(f"{event}.*"))


def wait_for(event: str, count: int) -> None:
    """Return when `event` has happened `count` times."""
    folder = os.environ.get(FOLDER)
    while folder and len(times(Path(folder), event)) < count:
        time.sleep(_POLL_SECONDS)
