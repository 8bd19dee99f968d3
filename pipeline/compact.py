"""Few large parts instead of many small ones: each bucket's view in one part, without what the view drops.

No lock is taken and writers need not stop. A part goes only when its rows, or rows that win against them, are in a
part that is stored; an image only when a stored row wins against every row that can name it. So whatever a late writer
brings either wins, and has its image, or loses to a row that has one (docs/guarantees.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.attempts import forget_stale
from pipeline.identity import image_key, part_key
from pipeline.images import ImagesOf, StoredImage, stored_images
from pipeline.ledger import Key, Raw, View, buckets_of, keys_of, read_raw
from pipeline.processes import in_processes
from pipeline.runs import OutputError, Run, find_runs
from pipeline.schema import EDITS, FAILURES, SCHEMA_VERSION
from pipeline.storage import Store, in_threads

_EDITS_IDENTITY = ("sample_id", "edit_id", "image_sha256", "fingerprint", "created_at")
_FAILURES_IDENTITY = (
    "sample_id",
    "edit_id",
    "stage",
    "error_type",
    "message",
    "attempts",
    "fingerprint",
    "created_at",
)


@dataclass(frozen=True)
class Compaction:
    """What was done to a run, or to a part of it; parts add up."""

    parts_before: int = 0
    parts_after: int = 0
    rows_dropped: int = 0
    """Raw rows that the view drops: repeats, and failures that a later attempt mended."""
    images_removed: int = 0
    bytes_removed: int = 0
    """Of images."""
    orphans_kept: int = 0
    """Images that no row names and a late row may still name."""
    damaged: tuple[str, ...] = ()
    """Buckets left as they are, since an image that their view names is not there."""

    def __add__(self, other: "Compaction") -> "Compaction":
        return Compaction(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class RunCompaction:
    """What was done to one run, and where it lives."""

    root: str
    compaction: Compaction


def compact_output(uri: str, orphan_age: timedelta | None = None) -> list[RunCompaction]:
    """Compact every run of an output; what is compact already stays as it is.

    `orphan_age`: also remove images that no row names and that are older; only sound when no writer holds back a row
    for so long, nor writes such an image anew meanwhile. Raises OutputError where settings are not clear or rows were
    written by a newer version, and what storage raises after its retries; the same call goes on from there.
    """
    before = None if orphan_age is None else time.time() - orphan_age.total_seconds()
    runs = find_runs(uri)
    for run in runs:
        if len(run.fingerprints) > 1:
            raise OutputError(
                f"{run.store.root} records {len(run.fingerprints)} settings, nothing was removed; delete the record "
                f"that is not wanted: {', '.join(f'recipe/{name}.json' for name in run.fingerprints)}"
            )
    return [RunCompaction(run.store.root, _compact_run(run, before)) for run in runs]


def _compact_run(run: Run, orphans_before: float | None) -> Compaction:
    forget_stale(run.store)
    with stored_images(run.store) as images_of:
        compact = partial(_compact_bucket, run, images_of, orphans_before)
        buckets = buckets_of(run)
        return sum(in_processes(compact, list(buckets), sum(buckets.values())), Compaction())


def _compact_bucket(run: Run, images_of: ImagesOf, orphans_before: float | None, bucket: str) -> Compaction:
    store = run.store
    raw = read_raw(store, bucket)
    _refuse_newer(raw, f"{store.root}, bucket {bucket}")
    views = raw.views()
    images = images_of(bucket, raw.edits["sample_id"].unique().to_pylist())
    edits = pa.concat_tables([raw.edits.slice(0, 0), *(view.edits for view in views.values())])
    failures = pa.concat_tables([raw.failures.slice(0, 0), *(view.failures for view in views.values())])
    named = _named_images(edits)
    if named - {image.key for image in images}:
        return Compaction(len(raw.parts), len(raw.parts), damaged=(bucket,))

    # Both kinds are stored before a part of either goes: an edits row stands for the failures that it mended.
    kept = {
        *_merged(store, "edits", bucket, edits, raw.edits, raw.edits_parts),
        *_merged(store, "failures", bucket, failures, raw.failures, raw.failures_parts),
    }
    in_threads(store.delete, [key for key in raw.parts if key not in kept])
    # Parts first: a kill here leaves images without rows, never rows without images.
    orphans = [image for image in images if image.key not in named]
    gone = _beaten(orphans, views.get(run.fingerprints[0]))
    if old := [image for image in orphans if orphans_before is not None and image.modified < orphans_before]:
        # Read anew: another compaction may have moved rows while the parts were listed.
        named = _named_images(read_raw(store, bucket).edits)
        gone += [image for image in old if image.key not in named and image not in gone]
    in_threads(store.delete, [image.key for image in gone])
    return Compaction(
        parts_before=len(raw.parts),
        parts_after=len(kept),
        rows_dropped=len(raw.edits) + len(raw.failures) - len(edits) - len(failures),
        images_removed=len(gone),
        bytes_removed=sum(image.size for image in gone),
        orphans_kept=len(orphans) - len(gone),
    )


def _refuse_newer(raw: Raw, where: str) -> None:
    for table in (raw.edits, raw.failures):
        newest = pc.max(table["schema_version"]).as_py() or 0
        if newest > SCHEMA_VERSION:
            raise OutputError(
                f"{where}: rows of schema version {newest}, this program knows {SCHEMA_VERSION} and would drop "
                "columns; compact with the version that wrote them"
            )


def _merged(
    store: Store, kind: str, bucket: str, rows: pa.Table, raw_rows: pa.Table, parts: Sequence[str]
) -> Sequence[str]:
    """The parts that hold these rows of the view, after the call: those that are there, or one that it writes."""
    if len(parts) <= 1 and len(rows) == len(raw_rows):
        return parts
    if not len(rows):
        return ()
    identity, schema = (_EDITS_IDENTITY, EDITS) if kind == "edits" else (_FAILURES_IDENTITY, FAILURES)
    columns = [map(str, rows[name].to_pylist()) for name in identity]
    key = part_key(kind, bucket, zip(*columns, strict=True))
    store.write_table(key, rows.select(schema.names))
    return (key,)


def _named_images(edits: pa.Table) -> set[str]:
    hashes = edits["image_sha256"].to_pylist()
    return {image_key(*key, sha256) for key, sha256 in zip(keys_of(edits), hashes, strict=True)}


def _beaten(orphans: Sequence[StoredImage], view: View | None) -> list[StoredImage]:
    """Images whose rows, there or to come, lose to a stored row."""
    winners: Mapping[Key, str] = {}
    if view is not None:
        winners = dict(zip(keys_of(view.edits), view.edits["image_sha256"].to_pylist(), strict=True))

    def lost(image: StoredImage) -> bool:
        winner = winners.get((image.sample_id, image.edit_id))
        return winner is not None and winner[: len(image.sha16)] < image.sha16

    return [image for image in orphans if lost(image)]
