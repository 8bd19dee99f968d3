"""Attempt markers: small objects in storage that tell which rows a process worked on when it died.

A stage puts one marker for its rows before it works on them and removes it after. A marker that stays tells of a
death. Rows whose process died are tried again in ever smaller parts, at last each alone; a row whose process died
`limit` times while it was alone is set aside: it becomes failure rows, and the rest goes on (docs/guarantees.md).
"""

import contextlib
import json
import math
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pipeline.identity import attempt_name, unit_name
from pipeline.storage import Store, in_threads, list_entries
from pipeline.work import Row, error_on

_FOLDER = "attempts"
_PARTS = 4
"""A unit that died is split so: few deaths until the row is found, and little lost where no row was to blame."""
_TOGETHER = 2
"""Deaths among others, in earlier runs, that make a row tried alone; one may be the kill of a whole run."""
_STALE = timedelta(days=1)

Work = Callable[[list[Row]], list[Row]]


class ProcessDied(Exception):
    """A row killed the process that worked on it, and was set aside."""


@dataclass(frozen=True)
class Attempts:
    """The markers of one run of a driver; it travels to the workers, and Ray's retries carry the same `run`."""

    store: Store | None = None
    """None: nothing is marked."""
    limit: int = 3
    run: str = ""
    left: tuple[str, ...] = ()
    """The markers that were there when this run began."""
    alone: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Deaths in earlier runs by (stage, sample id): of rows that were alone."""
    together: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The same of rows that were among others."""

    @classmethod
    def start(cls, store: Store, limit: int, anew: bool = False) -> "Attempts":
        """Begin a run; `anew` leaves aside what earlier runs tell."""
        left = tuple(store.keys(_FOLDER))
        alone: Counter[tuple[str, str]] = Counter()
        together: Counter[tuple[str, str]] = Counter()
        if not anew:
            for stage, samples in filter(None, in_threads(lambda key: _read(store, key), left)):
                (alone if len(samples) == 1 else together).update((stage, sample) for sample in samples)
        return cls(store, limit, uuid.uuid4().hex[:12], left, dict(alone), dict(together))

    def guarded(self, stage: str, rows: list[Row], work: Work) -> list[Row]:
        """`work` of the rows under a marker, in parts where a process died before; rows at the limit come back with
        an error instead. What `work` raises comes through and leaves no marker."""
        if self.store is None or not rows:
            return work(rows)
        samples = _samples(rows)
        deaths = self.deaths(stage, unit_name(samples))
        if len(samples) == 1:
            deaths += self.alone.get((stage, samples[0]), 0)
            if deaths >= self.limit:
                return [{**row, **_set_aside(stage, deaths)} for row in rows]
        else:
            parts = self._parts(stage, rows, deaths)
            if len(parts) > 1:
                return [row for part in parts for row in self.guarded(stage, part, work)]
        with self.marked(stage, samples):
            return work(rows)

    def _parts(self, stage: str, rows: list[Row], deaths: int) -> list[list[Row]]:
        """The rows as they are to be tried; the most suspect first, since what is done before a death is done again."""
        if deaths:
            size = math.ceil(len(rows) / _PARTS)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            return sorted(parts, key=lambda part: -self.deaths(stage, unit_name(_samples(part))))
        keys = [(stage, row["sample_id"]) for row in rows]
        suspect = [self.alone.get(key, 0) > 0 or self.together.get(key, 0) >= _TOGETHER for key in keys]
        singles = [[row] for row, alone in zip(rows, suspect, strict=True) if alone]
        rest = [row for row, alone in zip(rows, suspect, strict=True) if not alone]
        return [*singles, rest] if rest else singles

    def deaths(self, stage: str, unit: str) -> int:
        """How many processes of this run died in a stage with exactly this unit."""
        return len(self._markers(stage, unit))

    def forgive(self, stage: str, unit: str) -> None:
        """Forget the deaths of this run in a stage with exactly this unit."""
        if self.store is not None:
            in_threads(self.store.delete, self._markers(stage, unit))

    def _markers(self, stage: str, unit: str) -> list[str]:
        if self.store is None:
            return []
        folder, beginning = attempt_name(stage, unit, self.run, "")
        entries = list_entries(self.store.uri(f"{_FOLDER}/{folder}"), beginning)
        return [self.store.key(entry.uri) for entry in entries]

    @contextlib.contextmanager
    def marked(self, stage: str, samples: Sequence[str], unit: str | None = None) -> Iterator[None]:
        """A marker while the block runs: it stays only where the process dies."""
        if self.store is None:
            yield
            return
        key = "/".join((_FOLDER, *attempt_name(stage, unit or unit_name(samples), self.run, uuid.uuid4().hex[:12])))
        about = {"samples": list(samples), "host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}
        self.store.write(key, json.dumps(about).encode())
        try:
            yield
        finally:
            self.store.delete(key)

    def forget(self) -> None:
        """Remove the markers of this run and those it began with: all that they could tell is in the view."""
        if self.store is not None:
            of_run = [key for key in self.store.keys(_FOLDER) if f".{self.run}-" in key]
            in_threads(self.store.delete, sorted({*of_run, *self.left}))


def forget_stale(store: Store) -> None:
    """Remove markers older than a day. Only a death is forgotten: its row would be tried anew."""
    before = time.time() - _STALE.total_seconds()
    entries = list(list_entries(store.uri(_FOLDER)))
    in_threads(store.delete, [store.key(entry.uri) for entry in entries if entry.modified < before])


def _samples(rows: Sequence[Row]) -> list[str]:
    return sorted({row["sample_id"] for row in rows})


def _read(store: Store, key: str) -> tuple[str, list[str]] | None:
    """The stage and the sample ids of a marker; None when it went meanwhile or tells nothing."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        return key.split("/")[1], json.loads(store.read(key))["samples"]
    return None


def _set_aside(stage: str, deaths: int) -> Row:
    times = "once" if deaths == 1 else f"{deaths} times"
    message = f"the process died {times} in {stage} while this image was alone in it; it was set aside"
    return {**error_on(stage, ProcessDied(message)), "attempts": deaths}
