"""What augmentations took: one dated record for each selection, in storage before anything of it is asked or made.

A record names its listing, which holds the selected images alone, and its edits: all that it takes to complete it.
Once nothing of it is left, a second record beside it says what it came to.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.ask_records import Ask
from pipeline.asked_edits import parse_edits, plain_edits
from pipeline.estimate import Workload
from pipeline.identity import canonical_json
from pipeline.storage import Store

_FOLDER = "augment"
_DONE = ".done.json"


@dataclass(frozen=True)
class Increment:
    """One selection of one date; images and edits are all that it asks, `work` what of it costs work."""

    date: str
    """Of the partition, as 2030-01-31."""
    ask: Ask
    images: int
    edits: int
    work: Workload
    gpu_hours: float | None = None
    """What it was thought to take; None: its budget asks for no hours."""
    attempt: int = 1
    """How often the date has taken this selection, this time included: failures can be taken again."""

    @property
    def key(self) -> str:
        """Where the record lives, below its run: the same attempt at the same selection of a date has one name."""
        again = "" if self.attempt == 1 else f"-{self.attempt}"
        return f"{_place(self.date)}/{self.ask.sha256}{again}.json"

    @property
    def done_key(self) -> str:
        """Where it says what it came to."""
        return f"{self.key.removesuffix('.json')}{_DONE}"

    def record(self, store: Store) -> None:
        """Put the record, unless it is there."""
        if not store.exists(self.key):
            store.write(self.key, self._text().encode())

    def close(self, store: Store, outcome: Mapping[str, Any]) -> None:
        """Put what it came to; only where nothing of it is left."""
        store.write(self.done_key, json.dumps(outcome).encode())

    def _text(self) -> str:
        return canonical_json(
            {
                "date": self.date,
                "fingerprint": self.ask.fingerprint,
                "manifest": self.ask.manifest,
                "recipe_edits": plain_edits(self.ask.edits),
                "images": self.images,
                "edits": self.edits,
                "work": asdict(self.work),
                "gpu_hours": self.gpu_hours,
                "attempt": self.attempt,
            }
        )


def _place(date: str) -> str:
    return f"{_FOLDER}/date={date}"


def _read(store: Store, key: str) -> Increment:
    its = store.read_json(key)
    ask = Ask(its["fingerprint"], its["manifest"], parse_edits(json.dumps(its["recipe_edits"])))
    work, attempt = Workload(**its["work"]), its.get("attempt", 1)  # which older records lack
    return Increment(its["date"], ask, its["images"], its["edits"], work, its["gpu_hours"], attempt)


def _of_fingerprint(store: Store, fingerprint: str, keys: Sequence[str]) -> Iterator[Increment]:
    found = (_read(store, key) for key in keys if not key.endswith(_DONE))
    return (increment for increment in found if increment.ask.fingerprint == fingerprint)


def open_increments(store: Store, fingerprint: str) -> list[Increment]:
    """Those that no record says are done, by date."""
    keys = store.keys(_FOLDER)
    done = {key.removesuffix(_DONE) for key in keys if key.endswith(_DONE)}
    return list(_of_fingerprint(store, fingerprint, [key for key in keys if key.removesuffix(".json") not in done]))


def increments_of(store: Store, fingerprint: str, date: str) -> list[Increment]:
    """Those of one date, done or not."""
    return list(_of_fingerprint(store, fingerprint, store.keys(_place(date))))
