"""Does storage hold what was asked for? Read-only, bucket by bucket, so that memory holds one bucket at a time."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.ask import read_asks
from pipeline.asked import AskedEdit, asked_by_row
from pipeline.edit_spec import EditSpec
from pipeline.identity import fingerprint, sha256_bytes
from pipeline.images import ImagesOf, stored_images
from pipeline.ledger import Key, View, buckets_of, keys_of, read_raw
from pipeline.manifest import Manifest, open_manifest, prepare_manifest
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

    def rows(self, bucket: str) -> list[tuple[Row, list[AskedEdit]]]:
        """The bucket's rows with their edits; raises StorageError when the listing is not whole."""
        rows = self.manifest.read(bucket) if bucket in self.manifest.rows else []
        return asked_by_row(rows, self.edits)


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
    try:
        raw = read_raw(store, bucket, _EDITS, _FAILURES)
    except pa.ArrowInvalid as error:
        raise OutputError(f"{store.root}: a part of bucket {bucket} is no Parquet file: {error}") from None
    views = raw.views()
    named = set(raw.edits["image_uri"].to_pylist())
    images = images_of(bucket, raw.edits["sample_id"].unique().to_pylist())
    orphans = sum(store.uri(image.key) not in named for image in images)
    check = Check(orphans=orphans)
    for name in sorted(views.keys() | {ask.fingerprint for ask in asked}):
        its_asks = [ask for ask in asked if ask.fingerprint == name]
        check += _check_view(store, views.get(name), _wanted(its_asks, bucket))
    return check


def _wanted(asked: Iterable[_Asked], bucket: str) -> dict[Key, str]:
    """Every (sample, edit) that is asked for in a bucket, and how to tell of it."""
    wanted: dict[Key, str] = {}
    for ask in asked:
        for row, edits in ask.rows(bucket):
            for edit in edits:
                text = f"{edit.attribute} -> {edit.target} at {edit.strength:g} of {row['uri']}, asked by {ask.name}"
                wanted.setdefault((row["sample_id"], edit.edit_id), text)
    return wanted


def _check_view(store: Store, view: View | None, wanted: Mapping[Key, str]) -> Check:
    if view is None:
        return _found("missing", (_named(key, wanted[key]) for key in sorted(wanted))) + Check(asked=len(wanted))
    keys = [*keys_of(view.edits), *keys_of(view.failures)]
    there = set(keys)
    check = Check(asked=len(wanted), edits=len(view.edits), failures=len(view.failures), repeats=view.repeats)
    check += _found("missing", (_named(key, wanted[key]) for key in sorted(wanted.keys() - there)))
    check += _found("unasked", map(_named, sorted(there - wanted.keys())))
    check += _found("doubled", map(_named, _second_ones(keys)))
    rows = view.edits.to_pylist()
    images = in_threads(lambda row: _check_image(store, row), rows)
    for kind in ("absent", "altered", "outside"):
        bad = [row for row, (problem, _) in zip(rows, images, strict=True) if problem == kind]
        check += _found(kind, (_named((row["sample_id"], row["edit_id"]), row["image_uri"]) for row in bad))
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


def _second_ones(keys: Iterable[Key]) -> Iterator[Key]:
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            yield key
        seen.add(key)


def _named(key: Key, text: str = "") -> str:
    return " ".join([*key, text]).rstrip()


def _found(kind: str, texts: Iterable[str]) -> Check:
    all_texts = list(texts)
    return Check(**{kind: len(all_texts)}, examples={kind: tuple(all_texts[:_EXAMPLES])} if all_texts else {})
