"""What is done, what failed, what is left. The only reader of `edits/` and `failures/`: raw rows in, the view out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.asked_keys import AskedKeys, asked_keys, joined_keys
from pipeline.edit_spec import EditSpec
from pipeline.estimate import Workload
from pipeline.identity import canonical_json, fingerprint
from pipeline.manifest import Manifest, all_manifests
from pipeline.processes import in_processes
from pipeline.retrying import settled
from pipeline.runs import Run, new_run_prefix
from pipeline.schema import EDITS, FAILURES
from pipeline.storage import Store, in_threads

_KEY = ["sample_id", "edit_id"]
_BUCKET = "bucket="
_BUCKETS, _KEYS = 32, 250_000
"""Buckets that a process accounts for at a time, by a few threads, since a store's answers are waited for together; and
about how many keys these may hold, at some kB each."""
Key = tuple[str, str]


class FingerprintError(Exception):
    """The output holds edits that were made with other settings."""


@dataclass(frozen=True)
class View:
    """One row for each (sample_id, edit_id), in `edits` or in `failures`; `repeats` raw rows were dropped."""

    edits: pa.Table
    failures: pa.Table
    repeats: int


@dataclass(frozen=True)
class Raw:
    """The raw rows of one bucket, of every fingerprint, and the keys of the parts that hold them."""

    edits: pa.Table
    failures: pa.Table
    edits_parts: tuple[str, ...]
    failures_parts: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of both kinds."""
        return self.edits_parts + self.failures_parts

    def views(self) -> dict[str, View]:
        """The view of each fingerprint that has rows here."""
        names = {name for table in (self.edits, self.failures) for name in table["fingerprint"].unique().to_pylist()}

        def of(table: pa.Table, name: str) -> pa.Table:
            return table.filter(pc.equal(table["fingerprint"], name))

        return {name: _view(of(self.edits, name), of(self.failures, name)) for name in sorted(names)}


@dataclass(frozen=True)
class Standing:
    """What a bucket's rows ask, and how it stands: bool or int64, one for each of its keys."""

    asked: AskedKeys
    edited: np.ndarray
    failed: np.ndarray
    attempts: np.ndarray
    """Of those that failed; else 0."""
    repeats: int

    def left(self, retry_failed: bool = False) -> np.ndarray:
        """Which need work; with `retry_failed`, those that failed too."""
        return ~self.edited if retry_failed else ~(self.edited | self.failed)

    def account(self, retry_failed: bool) -> "Account":
        """The counts; with `retry_failed`, failures count as left."""
        left = self.left(retry_failed)
        failures = 0 if retry_failed else int(self.failed.sum())
        edits, asked = int(self.edited.sum()), len(left)
        return Account(
            self.asked.images, asked, edits, failures, int(left.sum()), self.repeats, self.asked.workload(left)
        )


@dataclass(frozen=True)
class Account:
    """The state of all that is asked for: images, edits asked, and of these edited, failed and left."""

    images: int = 0
    asked: int = 0
    edits: int = 0
    failures: int = 0
    left: int = 0
    repeats: int = 0
    work: Workload = field(default_factory=Workload)
    """What the model has to do for what is left."""

    @property
    def edits_per_image(self) -> int:
        """Asked of an image, rounded up."""
        return -(-self.asked // max(1, self.images))

    def __add__(self, other: "Account") -> "Account":
        return Account(*(getattr(self, its.name) + getattr(other, its.name) for its in fields(self)))


def _first_of_each_key(table: pa.Table, order: Sequence[tuple[str, str]]) -> pa.Table:
    """The first row of each (sample_id, edit_id) in this order."""
    if len(table) < 2:
        return table
    ties = [("created_at", "ascending")] if "created_at" in table.column_names else []
    table = table.sort_by([*((name, "ascending") for name in _KEY), *order, *ties]).combine_chunks()
    keys = _joined(table)
    changes = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    return table.filter(pa.chunked_array([pa.array([True]), changes]))


def keys_of(table: pa.Table) -> list[Key]:
    """The (sample_id, edit_id) of each row."""
    return list(zip(table["sample_id"].to_pylist(), table["edit_id"].to_pylist(), strict=True))


def _joined(table: pa.Table) -> pa.Array:
    return joined_keys(table["sample_id"], table["edit_id"])


def _view(edits: pa.Table, failures: pa.Table) -> View:
    raw = len(edits) + len(failures)
    edits = _first_of_each_key(edits, [("image_sha256", "ascending")])
    ranks = [("attempts", "descending"), *((name, "ascending") for name in ("stage", "error_type", "message"))]
    failures = _first_of_each_key(failures, ranks)
    kept = failures.filter(pc.invert(pc.is_in(_joined(failures), _joined(edits))))
    # A failure that a later attempt mended is history, not a repeat.
    return View(edits, kept, raw - len(edits) - len(failures))


@dataclass(frozen=True)
class Ledger:
    """The rows of one fingerprint below one output."""

    store: Store
    fingerprint: str

    def _raw(self, kind: str, below: str, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        table = self.store.read_tables(f"{kind}{below}", schema, [*columns])
        return table.filter(pc.equal(table["fingerprint"], self.fingerprint))

    def read(self) -> View:
        """The whole view, all columns."""
        edits = self._raw("edits", "", EDITS, EDITS.names)
        return _view(edits, self._raw("failures", "", FAILURES, FAILURES.names))

    def bucket(self, bucket: str, more: Sequence[str] = ()) -> View:
        """The view of one bucket, with the columns that resume needs, and of its edits `more`."""
        columns = [*_KEY, "fingerprint"]
        edits = self._raw("edits", f"/bucket={bucket}", EDITS, [*columns, "image_sha256", *more])
        errors = [*columns, "attempts", "stage", "error_type", "message"]
        return _view(edits, self._raw("failures", f"/bucket={bucket}", FAILURES, errors))

    def standing(self, manifest: Manifest, bucket: str, edits: Sequence[EditSpec]) -> Standing:
        """What a bucket of the manifest asks for, held against the view."""
        return self.held(bucket, asked_keys(manifest.table(bucket), edits))

    def held(self, bucket: str, asked: AskedKeys) -> Standing:
        """What the rows of a bucket ask for, held against the view."""
        view, keys = self.bucket(bucket), asked.keys()
        edited = pc.is_in(keys, _joined(view.edits))
        place = pc.index_in(keys, _joined(view.failures))
        attempts = pc.fill_null(view.failures["attempts"].combine_chunks().take(place), 0)
        columns = [column.to_numpy(zero_copy_only=False) for column in (edited, place.is_valid(), attempts)]
        return Standing(asked, columns[0], columns[1], columns[2], view.repeats)

    def account(self, manifest: Manifest, edits: Sequence[EditSpec], retry_failed: bool = False) -> Account:
        """Hold what the manifest asks for against the view, bucket by bucket; only counts are kept.

        With `retry_failed`, failures count as left.
        """

        names = sorted(manifest.rows)
        keys = manifest.total * max(1, sum(len(edit.strengths) for edit in edits)) // max(1, len(names))
        size = min(_BUCKETS, max(1, _KEYS // max(1, keys)))
        groups = [names[start : start + size] for start in range(0, len(names), size)]
        count = partial(_account_of, self, manifest, tuple(edits), retry_failed)
        return sum(in_processes(count, groups, manifest.total), Account())

    def settled_account(self, manifest: Manifest, edits: Sequence[EditSpec]) -> Account:
        """The account after a stream that wrote all: where something is left, a lagging listing may not show it yet."""
        return settled(lambda: self.account(manifest, edits), lambda account: not account.left)


def read_raw(
    store: Store, bucket: str, edits: Sequence[str] = EDITS.names, failures: Sequence[str] = FAILURES.names
) -> Raw:
    """The raw rows of one bucket of a run, whatever their fingerprint, with these columns."""
    edits_parts, edits_rows = store.read_parts(f"edits/{_BUCKET}{bucket}", EDITS, edits)
    failures_parts, failures_rows = store.read_parts(f"failures/{_BUCKET}{bucket}", FAILURES, failures)
    return Raw(edits_rows, failures_rows, tuple(edits_parts), tuple(failures_parts))


def _account_of(
    ledger: Ledger, manifest: Manifest, edits: Sequence[EditSpec], retry_failed: bool, buckets: Sequence[str]
) -> Account:
    def count(bucket: str) -> Account:
        return ledger.standing(manifest, bucket, edits).account(retry_failed)

    return sum(in_threads(count, buckets), Account())


def buckets_with_parts(store: Store) -> list[str]:
    """The buckets of a run that hold rows, in order."""
    folders = [name for kind in ("edits", "failures") for name in storage.folders(store.uri(kind), _BUCKET)]
    return sorted({name.removeprefix(_BUCKET) for name in folders})


def buckets_of(run: Run) -> dict[str, int]:
    """The buckets of a run that can hold rows or images, by name: those with parts, and those of every listing. With
    how many images all listings name there."""
    buckets = Counter(dict.fromkeys(buckets_with_parts(run.store), 0))
    for manifest in all_manifests(run.output):
        buckets.update(manifest.rows)
    return dict(sorted(buckets.items()))


def check_settings(output: Store, settings: Mapping[str, Any], new_run: bool) -> tuple[Store, str]:
    """Where the run with these settings lives or is to live, and their fingerprint; records nothing.

    Raises FingerprintError when the output holds other settings and no new run is asked for.
    """
    name = fingerprint(settings)
    others = [key for key in output.keys("recipe") if key != f"recipe/{name}.json"]
    if others and new_run:
        output, others = output.below(new_run_prefix(name)), []
    if others:
        raise FingerprintError(_refusal(output, others, settings))
    return output, name


def open_run(output: Store, settings: Mapping[str, Any], new_run: bool) -> tuple[Store, str]:
    """The store of the run with these settings, and their fingerprint; records them before anything is made.

    Raises FingerprintError as `check_settings` does.
    """
    output, name = check_settings(output, settings, new_run)
    key = f"recipe/{name}.json"
    if not output.exists(key):
        output.write(key, canonical_json(settings).encode())
    return output, name


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value})
    return flat


def _refusal(output: Store, others: Sequence[str], settings: Mapping[str, Any]) -> str:
    now = _flat(settings)
    lines = [f"{output.root} holds edits made with other settings, nothing was started"]
    for key in others:
        then = _flat(output.read_json(key))
        changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
        lines += [f"  {name}: there {_told(then, name)}, now {_told(now, name)}" for name in changed]
    return "\n".join([*lines, "  change them back, choose another output, or add --new-run to keep both side by side"])


def _told(settings: Mapping[str, Any], name: str) -> str:
    """A setting's value; a version that had no such setting, or a recipe that it does not concern, has none."""
    return repr(settings[name]) if name in settings else "unset"
