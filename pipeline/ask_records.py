"""What was asked of a run: one record for each listing and edit list, in storage before anything is made.

The settings' record leaves the edit list out, so that edits can be added later. These records keep it, and so storage
alone says what must be there: the union of all records of a fingerprint.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.asked_edits import parse_edits, plain_edits
from pipeline.edit_spec import EditSpec
from pipeline.identity import canonical_json, sha256_bytes
from pipeline.storage import Store


@dataclass(frozen=True)
class Ask:
    """One edit list, asked of one listing of the input under one set of settings."""

    fingerprint: str
    manifest: str
    """Prefix of the listing's shards, below the output that holds the manifests."""
    edits: tuple[EditSpec, ...]
    """What every row is asked for that brings no edits of its own."""

    @property
    def sha256(self) -> str:
        """Of the record's text."""
        return sha256_bytes(self._text().encode())

    @property
    def key(self) -> str:
        """Where the record lives, below its run: named by its content."""
        return f"asked/{self.sha256}.json"

    def record(self, store: Store) -> None:
        """Put the record, unless it is there."""
        if not store.exists(self.key):
            store.write(self.key, self._text().encode())

    def _text(self) -> str:
        edits = plain_edits(self.edits)
        return canonical_json({"fingerprint": self.fingerprint, "manifest": self.manifest, "edits": edits})


def read_asks(store: Store) -> Sequence[Ask]:
    """All records of a run, in order of their names."""
    records = [store.read_json(key) for key in store.keys("asked")]
    return [
        Ask(record["fingerprint"], record["manifest"], parse_edits(json.dumps(record["edits"]))) for record in records
    ]
