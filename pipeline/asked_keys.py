"""What the rows of a bucket ask, as columns: keys to be held against the ledger, with no object for each of them.

Rows without prompts, fields or edits of their own ask for the same edits under the same ids, so these are hashed once
for all; only the others are gone through one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.asked_edits import AskedEdit, asked_edits
from pipeline.edit_spec import EditSpec
from pipeline.estimate import Workload

_OWN = ("source_prompt", "target_prompts", "edits", "fields")


@dataclass(frozen=True)
class AskedKeys:
    """Every (sample, edit) that is asked for, once, in the order of the rows.

    rows: a part of the manifest. edits: the different ones. row, edit: int64 (N,), which row asks for which edit.
    """

    rows: pa.Table
    edits: tuple[AskedEdit, ...]
    row: np.ndarray
    edit: np.ndarray

    @property
    def images(self) -> int:
        """Different samples; every row asks for something."""
        return pc.count_distinct(self.rows["sample_id"]).as_py()

    def keys(self) -> pa.Array:
        """One text for each (sample, edit), as `joined_keys` gives it."""
        names = pa.array([edit.edit_id for edit in self.edits], pa.string())
        return joined_keys(self.rows["sample_id"].take(pa.array(self.row)), names.take(pa.array(self.edit)))

    def workload(self, left: np.ndarray) -> Workload:
        """What the model has to do for those that are left, (N,) bool; a row with a problem costs it nothing.

        A target is a prompt that the manifest gives, or a request: two requests of an image that the captioner happens
        to answer alike are one target less.
        """
        chosen = left & self.rows["problem"].is_null().to_numpy()[self.row]
        row, parts = self.row[chosen], self.targets[self.edit[chosen]]
        pairs = row[:, None] * (self.targets.max(initial=0) + 1) + parts
        return Workload(len(np.unique(row)), len(np.unique(pairs[parts >= 0])), len(row))

    @cached_property
    def targets(self) -> np.ndarray:
        """int64 (edits, most targets of one): a number for each different target; -1 where an edit has fewer."""
        numbers: dict[str, int] = {}
        width = max((len(edit.requests) for edit in self.edits), default=0)
        parts = np.full((len(self.edits), width), -1)
        for index, asked in enumerate(self.edits):
            for place, (given, request) in enumerate(zip(asked.given_prompts, asked.requests, strict=True)):
                name = f"request {request}" if given is None else f"prompt {given}"
                parts[index, place] = numbers.setdefault(name, len(numbers))
        return parts


def joined_keys(samples: pa.ChunkedArray | pa.Array, edits: pa.ChunkedArray | pa.Array) -> pa.Array:
    """(sample_id, edit_id) as one text each; neither holds the separator."""
    joined = pc.binary_join_element_wise(samples, edits, "/")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def asked_keys(rows: pa.Table, recipe_edits: Sequence[EditSpec]) -> AskedKeys:
    """What these rows of the manifest ask for; where rows of one image overlap, the first one asks."""
    has_own = np.zeros(len(rows), bool)
    for name in _OWN:
        has_own |= rows[name].is_valid().to_numpy()
    shared = asked_edits({**dict.fromkeys(_OWN), "problem": None}, recipe_edits)
    numbers = {edit.edit_id: index for index, edit in enumerate(shared)}
    edits = list(shared)
    plain, own = np.flatnonzero(~has_own), np.flatnonzero(has_own)
    row = [np.repeat(plain, len(shared))]
    edit = [np.tile(np.arange(len(shared)), len(plain))]
    for index, values in zip(own, rows.take(pa.array(own)).to_pylist(), strict=True):
        asked = asked_edits(values, recipe_edits)
        edits += [new for new in asked if new.edit_id not in numbers]
        for new in asked:
            numbers.setdefault(new.edit_id, len(numbers))
        row.append(np.full(len(asked), index))
        edit.append(np.array([numbers[its.edit_id] for its in asked]))
    return _each_once(rows, tuple(edits), np.concatenate(row), np.concatenate(edit))


def _each_once(rows: pa.Table, edits: tuple[AskedEdit, ...], row: np.ndarray, edit: np.ndarray) -> AskedKeys:
    in_order = np.argsort(row, kind="stable")
    row, edit = row[in_order], edit[in_order]
    samples = rows["sample_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(samples[row].astype(np.int64) * len(edits) + edit, return_index=True)
    first.sort()
    return AskedKeys(rows, edits, row[first], edit[first])
