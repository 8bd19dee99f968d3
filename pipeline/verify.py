"""Does storage hold what was asked for? Read-only, bucket by bucket, so that memory holds one bucket at a time."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ask_records import read_asks
from pipeline.asked_keys import AskedKeys, asked_keys, joined_keys
from pipeline.edit_spec import EditSpec
from pipeline.identity import fingerprint, sha256_bytes
from pipeline.images import ImagesOf, stored_images
from pipeline.ledger import View, buckets_of, read_raw
from pipeline.listing import prepare_manifest
from pipeline.manifest import Manifest, open_manifest
from pipeline.operations import Operations, pixel_settings
from pipeline.processes import in_processes
from pipeline.recipe import Recipe
from pipeline.runs import OutputError, Run, find_runs
from pipeline.storage import Store, in_threads, normalise, read

PROBLEMS = {
    "missing": "asked for, but neither in edits nor in failures",
    "doubled": "in the view more than once",
    "unasked": "in the view, but asked for by nothing that is recorded",
    "absent": "its image is not there",
    "altered": "its image has another sha256",
    "outside": "its image_uri lies outside the run",
}
"""What can be wrong with a row, and what to tell of it."""

_EXAMPLES = 5
_IMAGES = 10_000
"""Rows of the view whose images are read at a time."""
_NO_KEYS = pa.array([], pa.string())
_EDITS = ("sample_id", "edit_id", "fingerprint", "image_uri", "image_sha256")
_FAILURES = ("sample_id", "edit_id", "fingerprint", "attempts", "stage", "error_type", "message")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """What a run, or a part of it, came to; parts add up. `edits` and `failures` count rows of the view."""

    asked: int = 0
    edits: int = 0
    failures: int = 0
    missing: int = 0
    doubled: int = 0
    unasked: int = 0
    absent: int = 0
    altered: int = 0
    outside: int = 0
    orphans: int = 0
    """Images that no row names; no error."""
    repeats: int = 0
    """Raw rows that the view drops; no error."""
    bytes_read: int = 0
    """Of images."""
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The first few of each problem, by its name."""

    def __add__(self, other: "Check") -> "Check":
        counts = [field.name for field in fields(self) if field.name != "examples"]
        kinds = [kind for kind in PROBLEMS if kind in self.examples or kind in other.examples]
        both = {kind: (*self.examples.get(kind, ()), *other.examples.get(kind, ())) for kind in kinds}
        return Check(
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            examples={kind: examples[:_EXAMPLES] for kind, examples in both.items()},
        )

    @property
    def problems(self) -> dict[str, int]:
        """The number of each problem that there is; empty: nothing is wrong."""
        return {kind: getattr(self, kind) for kind in PROBLEMS if getattr(self, kind)}


@dataclass(frozen=True)
class RunCheck:
    """The check of one run, and where it lives."""

    root: str
    fingerprints: tuple[str, ...]
    check: Check


@dataclass(frozen=True)
class _Asked:
    """One record of what was asked, with its listing opened."""

    name: str
    fingerprint: str
    manifest: Manifest
    edits: Sequence[EditSpec]

    def wanted(self, bucket: str) -> "_Wanted":
        """What the rows of a bucket ask for; raises StorageError when the listing is not whole."""
        asked = asked_keys(self.manifest.table(bucket), self.edits)
        return _Wanted(self.name, asked, asked.keys())


@dataclass(frozen=True)
class _Wanted:
    """What a record asks for in a bucket; keys: a text of each (sample, edit)."""

    name: str
    asked: AskedKeys
    keys: pa.Array

    def told(self, key: str) -> str | None:
        """What is asked under a key; None: nothing."""
        place = pc.index(self.keys, key).as_py()
        if place < 0:
            return None
        edit = self.asked.edits[self.asked.edit[place]]
        uri = self.asked.rows["uri"][int(self.asked.row[place])].as_py()
        return f"{edit.attribute} -> {edit.target} at {edit.strength:g} of {uri}, asked by {self.name}"


def verify_output(uri: str) -> list[RunCheck]:
    """Hold every run of an output against all that was ever asked of it.

    Raises OutputError where nothing tells what was asked, and what storage raises after its retries.
    """
    return [_check_run(run, _recorded(run)) for run in find_runs(uri)]


def verify_recipe(recipe: Recipe, operations: Operations, output: str | None = None) -> list[RunCheck]:
    """Hold a recipe's run against what the recipe asks of its input today, besides all that was asked before.

    `output`: where the edits are, if not where the recipe says. Raises OutputError when that place holds no edits of
    the recipe's settings, RecipeError when its input is not there.
    """
    name = fingerprint(pixel_settings(recipe, operations.facts(recipe)))
    place = normalise(output or recipe.output)
    runs = [run for run in find_runs(place) if name in run.fingerprints]
    if not runs:
        raise OutputError(
            f"{place} holds edits, but none made with this recipe's settings; give the recipe that made them, "
            "or the output alone"
        )
    with tempfile.TemporaryDirectory(prefix="eim-verify-") as folder:  # nothing is written to the output
        today = _Asked(
            "the recipe", name, prepare_manifest(recipe.input, Store(folder), recipe.template_columns), recipe.edits
        )
        return [_check_run(run, [*_recorded(run, may_lack=True), today]) for run in runs]


def _recorded(run: Run, may_lack: bool = False) -> list[_Asked]:
    asks = read_asks(run.store)
    if not asks and not may_lack:
        raise OutputError(
            f"{run.store.root}: nothing there says what was asked (asked/<sha256>.json); "
            "give the recipe, or run its edit job again, which records it"
        )
    opened: dict[str, Manifest] = {}
    for ask in asks:
        try:
            opened.setdefault(ask.manifest, open_manifest(run.output, ask.manifest))
        except FileNotFoundError:
            raise OutputError(
                f"{run.output.root}/{ask.manifest}/index.json is not there, and {ask.key} needs it to say what was "
                "asked; run the edit job again, which lists anew, or remove that record if it no longer counts"
            ) from None
    return [_Asked(ask.key, ask.fingerprint, opened[ask.manifest], ask.edits) for ask in asks]


def _check_run(run: Run, asked: Sequence[_Asked]) -> RunCheck:
    buckets = sorted({*buckets_of(run), *(bucket for ask in asked for bucket in ask.manifest.rows)})
    with stored_images(run.store) as images_of:
        check = partial(_check_bucket, run.store, asked, images_of)
        checks = in_processes(check, buckets, sum(ask.manifest.total for ask in asked))
        return RunCheck(run.store.root, run.fingerprints, sum(checks, Check()))


def _check_bucket(store: Store, asked: Sequence[_Asked], images_of: ImagesOf, bucket: str) -> Check:
    raw = read_raw(store, bucket, _EDITS, _FAILURES)
    views = raw.views()
    named = set(raw.edits["image_uri"].to_pylist())
    images = images_of(bucket, raw.edits["sample_id"].unique().to_pylist())
    orphans = sum(store.uri(image.key) not in named for image in images)
    check = Check(orphans=orphans)
    for name in sorted(views.keys() | {ask.fingerprint for ask in asked}):
        wanted = [ask.wanted(bucket) for ask in asked if ask.fingerprint == name and bucket in ask.manifest.rows]
        check += _check_view(store, views.get(name), wanted)
    return check


def _check_view(store: Store, view: View | None, wanted: Sequence[_Wanted]) -> Check:
    keys = pc.unique(pa.concat_arrays([_NO_KEYS, *(its.keys for its in wanted)]))
    tables = () if view is None else (view.edits, view.failures)
    there = pa.concat_arrays([_NO_KEYS, *(joined_keys(table["sample_id"], table["edit_id"]) for table in tables)])
    check = Check(asked=len(keys))
    check += _found("missing", _without(keys, there), lambda key: f"{_named(key)} {_told(wanted, key)}")
    check += _found("unasked", _without(pc.unique(there), keys), _named)
    check += _found("doubled", _second_ones(there), _named)
    if view is None:
        return check
    check += Check(edits=len(view.edits), failures=len(view.failures), repeats=view.repeats)
    for start in range(0, len(view.edits), _IMAGES):
        check += _check_images(store, view.edits.slice(start, _IMAGES).to_pylist())
    return check


def _check_images(store: Store, rows: Sequence[Row]) -> Check:
    check, images = Check(), in_threads(lambda row: _check_image(store, row), rows)
    for kind in ("absent", "altered", "outside"):
        bad = [row for row, (problem, _) in zip(rows, images, strict=True) if problem == kind]
        texts = tuple(f"{row['sample_id']} {row['edit_id']} {row['image_uri']}" for row in bad[:_EXAMPLES])
        check += Check(**{kind: len(bad)}, examples={kind: texts} if texts else {})
    return check + Check(bytes_read=sum(size for _, size in images))


def _check_image(store: Store, row: Row) -> tuple[str | None, int]:
    """What is wrong with a row's image, and how many bytes were read to know."""
    uri = row["image_uri"]
    if not uri.startswith(store.uri("images/")) or ".." in uri.split("/"):
        return "outside", 0
    try:
        data = read(uri).data
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return "absent", 0
    return (None if sha256_bytes(data) == row["image_sha256"] else "altered"), len(data)


def _without(keys: pa.Array, others: pa.Array) -> pa.Array:
    return keys.filter(pc.invert(pc.is_in(keys, value_set=others)))


def _second_ones(keys: pa.Array) -> pa.Array:
    """What is there more than once, as often as it is too many."""
    counted = keys.value_counts()
    more = counted.filter(pc.greater(counted.field("counts"), 1))
    times = more.field("counts").to_numpy(zero_copy_only=False) - 1
    return more.field("values").take(pa.array(np.repeat(np.arange(len(more)), times)))


def _named(key: str) -> str:
    return key.replace("/", " ")


def _told(wanted: Sequence[_Wanted], key: str) -> str:
    return next(text for its in wanted if (text := its.told(key)) is not None)


def _found(kind: str, keys: pa.Array, tell: Callable[[str], str]) -> Check:
    """So many of a problem; only the first few are told."""
    first = keys.take(pc.array_sort_indices(keys).slice(0, _EXAMPLES)).to_pylist()
    return Check(**{kind: len(keys)}, examples={kind: tuple(map(tell, first))} if first else {})
