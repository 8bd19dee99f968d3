"""What is new in the source: of a listing with its times, the edits that the ledger does not hold."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.asked_edits import UNKNOWN, AskedEdit, plain_edits, specs_of
from pipeline.asked_keys import AskedKeys, asked_keys
from pipeline.edit_spec import EditSpec
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest
from pipeline.schema import LISTING

Row = dict[str, Any]


@dataclass(frozen=True)
class Left:
    """The (image, edit)s of a bucket that are left: places in what its rows ask, in order."""

    asked: AskedKeys
    key: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """The row of each."""
        return self.asked.row[self.key]

    @property
    def edit(self) -> np.ndarray:
        """Which of `asked.edits` each is."""
        return self.asked.edit[self.key]

    @property
    def modified(self) -> np.ndarray:
        """float64: when the source of each was written; long ago where that is not known."""
        return pc.fill_null(self.asked.rows["modified"].combine_chunks(), -np.inf).to_numpy()[self.row]

    @property
    def broken(self) -> np.ndarray:
        """bool: whether the row has a problem, so that it becomes a failure row and costs no work."""
        return self.asked.rows["problem"].is_valid().to_numpy()[self.row]


@dataclass(frozen=True)
class Backlog:
    """A listing that was prepared with its times, held against the ledger."""

    listing: Manifest
    ledger: Ledger
    edits: Sequence[EditSpec]
    retry_failed: bool = False
    """Whether edits that ended as failures are left."""

    @property
    def buckets(self) -> list[str]:
        """In order."""
        return sorted(self.listing.rows)

    def left(self, bucket: str) -> Left:
        """What is left of a bucket; what its rows ask is the same at every call."""
        return self._left_of(bucket, self._asked(bucket))

    def rows(self, bucket: str, keys: np.ndarray | None = None) -> Iterator[Row]:
        """Rows that ask for these keys of a bucket alone, as a listing has them; None: for all that is left."""
        asked = self._asked(bucket)
        chosen = Left(asked, keys) if keys is not None else self._left_of(bucket, asked)
        rows, starts = np.unique(chosen.row, return_index=True)
        its_edits = np.split(chosen.edit, starts[1:])
        wholes = _wholes(asked)
        texts: dict[tuple[int, ...], str | None] = {}  # most rows ask for the same
        for row, index, edits in zip(asked.rows.take(pa.array(rows)).to_pylist(), rows, its_edits, strict=False):
            name = tuple(edits.tolist())
            if row["problem"] is None and len(name) < wholes[index]:
                if name not in texts:
                    texts[name] = _as_json([asked.edits[edit] for edit in name])
                row["edits"] = texts[name] or row["edits"]
            yield row

    def _asked(self, bucket: str) -> AskedKeys:
        return asked_keys(self.listing.table(bucket, LISTING), self.edits)

    def _left_of(self, bucket: str, asked: AskedKeys) -> Left:
        return Left(asked, np.flatnonzero(self.ledger.held(bucket, asked).left(self.retry_failed)))


def _wholes(asked: AskedKeys) -> np.ndarray:
    """How many keys each row asks for; where several rows are of one image, more than any row has: each of them then
    names its edits, since a row alone would ask for those of the others too."""
    counts = np.bincount(asked.row, minlength=len(asked.rows))
    samples = asked.rows["sample_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    shared = np.bincount(samples)[samples] > 1
    return np.where(shared, np.iinfo(np.int64).max, counts)


def _as_json(edits: Sequence[AskedEdit]) -> str | None:
    """None: they cannot be named."""
    return None if UNKNOWN in edits else json.dumps(plain_edits(specs_of(edits)), sort_keys=True)
