"""SIGINT (Ctrl-C) and SIGTERM (`ray job stop`, a scheduler): the job ends in order, and in bounded time."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_DEADLINE_SECONDS = 25.0


@dataclass
class Stop:
    """The signal that came; None so far."""

    signum: int | None = None

    @property
    def exit_code(self) -> int:
        """As a shell tells it; without a signal as after Ctrl-C."""
        return 128 + (self.signum or signal.SIGINT)


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGINT and SIGTERM raise KeyboardInterrupt while the block runs; a second one, or too long an end, exits at once.

    KeyboardInterrupt for both, since Ray turns whatever a handler raises inside its calls into that.
    """
    stop = Stop()

    def leave() -> None:
        os._exit(stop.exit_code)

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None:
            leave()
        stop.signum = signum
        timer = threading.Timer(_DEADLINE_SECONDS, leave)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
