"""A manifest: what is to be done, as bucketed Parquet shards below the output.

Rows stream through a spool on the driver's disk, so that memory holds one bucket at a time. Shards are sorted and
named by content, and their folder by all of them: the same input gives the same keys and is not written twice.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.identity import bucket_of, canonical_json, part_key, sha256_bytes
from pipeline.manifest_row import Row
from pipeline.retrying import StorageError, room_on, settled
from pipeline.schema import LISTING, MANIFEST, table_of
from pipeline.storage import Store

_SHARD_ROWS = 4096
_SPOOL_ROWS = 8192
_ORDER = ("sample_id", "source_prompt", "target_prompts", "edits", "problem", "fields")
"""What rows are sorted by, none before any; rows that are equal in these are one."""


@dataclass(frozen=True)
class Manifest:
    """A prepared manifest: where its shards are, and how many rows each bucket holds."""

    store: Store
    prefix: str
    rows: Mapping[str, int]

    @property
    def total(self) -> int:
        """Rows in all buckets."""
        return sum(self.rows.values())

    def read(self, bucket: str) -> list[Row]:
        """The rows of one bucket, sorted by sample id; raises StorageError when they are not as many as were put."""
        return self.table(bucket).to_pylist()

    def table(self, bucket: str, schema: pa.Schema = MANIFEST) -> pa.Table:
        """As `read`, in columns: where there are many. `schema`: LISTING of a manifest that was prepared so."""
        place, listed = f"{self.prefix}/bucket={bucket}", self.rows.get(bucket, 0)
        # A listing that lags shows too few shards, and what it leaves out would be asked for by nobody.
        table = settled(lambda: self.store.read_tables(place, schema, schema.names), lambda table: len(table) == listed)
        if len(table) != listed:
            raise StorageError(
                f"{self.store.uri(place)}: {len(table)} rows, but its index says {listed}; what was asked cannot be "
                f"known. If it stays so, remove {self.prefix}/index.json and run the edit job again: it lists anew"
            )
        return _sorted(table)

    def groups(self, target_rows: int) -> list[tuple[str, ...]]:
        """Buckets in groups of about `target_rows` rows: the work of one reading task each."""
        groups: list[tuple[str, ...]] = []
        current: list[str] = []
        for bucket in sorted(self.rows):
            current.append(bucket)
            if sum(self.rows[name] for name in current) >= target_rows:
                groups.append(tuple(current))
                current = []
        return [*groups, tuple(current)] if current else groups


def open_manifest(output: Store, prefix: str) -> Manifest:
    """The manifest that was prepared below an output under this prefix; raises FileNotFoundError."""
    return Manifest(output, prefix, output.read_json(f"{prefix}/index.json")["rows"])


def all_manifests(output: Store) -> list[Manifest]:
    """Every manifest that was prepared below an output; one whose writing was cut short has no index and is none."""
    found = []
    for name in storage.folders(output.uri("manifest")):
        with contextlib.suppress(FileNotFoundError):
            found.append(open_manifest(output, f"manifest/{name}"))
    return found


def write_manifest(rows: Iterable[Row], output: Store, schema: pa.Schema = MANIFEST) -> Manifest | None:
    """Write rows of LISTING as shards below the output; None, and nothing is written, where there is no row."""
    with room_on(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="eim-manifest-") as folder:
        spool = _Spool(Path(folder))
        spool.fill(rows)
        return _write_shards(spool, output, schema) if spool.buckets else None


def _order_of(rows: pa.Table) -> pa.Table:
    return pa.table({name: pc.fill_null(rows[name], "") for name in _ORDER}).combine_chunks()


def _sorted(rows: pa.Table) -> pa.Table:
    return rows.take(pc.sort_indices(_order_of(rows), [(name, "ascending") for name in _ORDER]))


class _Spool:
    """Rows on the driver's disk by bucket, one file each, a bounded number of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._writers = folder, dict[str, pa.RecordBatchStreamWriter]()

    def fill(self, rows: Iterable[Row]) -> None:
        """Put rows, and close the files."""
        rows = iter(rows)
        while chunk := list(islice(rows, _SPOOL_ROWS)):
            buckets = np.array([bucket_of(row["sample_id"]) for row in chunk])
            order = np.argsort(buckets, kind="stable")
            table = table_of(chunk, LISTING).take(pa.array(order)).combine_chunks()
            names, starts = np.unique(buckets[order], return_index=True)
            for bucket, start, stop in zip(names.tolist(), starts, [*starts[1:], len(chunk)], strict=True):
                if bucket not in self._writers:
                    self._writers[bucket] = pa.ipc.new_stream(str(self._folder / bucket), LISTING)
                self._writers[bucket].write_table(table.slice(start, stop - start))
        for writer in self._writers.values():
            writer.close()

    @property
    def buckets(self) -> list[str]:
        """Those that have rows, in order."""
        return sorted(self._writers)

    def read(self, bucket: str) -> pa.Table:
        """A bucket's rows in order, equal rows once: a URI that is listed twice is one image."""
        with pa.OSFile(str(self._folder / bucket)) as file:
            rows = _sorted(pa.ipc.open_stream(file).read_all())
        changes = np.ones(len(rows), bool)
        changes[:-1] = False
        for column in _order_of(rows).columns:
            differs = pc.not_equal(column.slice(1), column.slice(0, len(rows) - 1))
            changes[:-1] |= differs.combine_chunks().to_numpy(zero_copy_only=False)
        return rows.filter(pa.array(changes))


def _shards(rows: pa.Table) -> Iterator[pa.Table]:
    """Runs of about `_SHARD_ROWS` rows that never part the rows of one image."""
    samples = rows["sample_id"].to_pylist()
    start = 0
    for stop in range(1, len(rows) + 1):
        last = stop == len(rows)
        if last or (stop - start >= _SHARD_ROWS and samples[stop] != samples[stop - 1]):
            yield rows.slice(start, stop - start)
            start = stop


def _write_shards(spool: _Spool, output: Store, schema: pa.Schema) -> Manifest:
    counts: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    for bucket in spool.buckets:
        rows = spool.read(bucket)
        counts[bucket] = len(rows)
        names[bucket] = [part_key("", bucket, _contents(shard)) for shard in _shards(rows)]
    keys = [f"shards{name}" for bucket in spool.buckets for name in names[bucket]]
    prefix = f"manifest/{sha256_bytes(''.join(keys).encode())[:16]}"
    manifest = Manifest(output, prefix, counts)
    index = f"{prefix}/index.json"
    if output.exists(index):
        return manifest
    for bucket in spool.buckets:
        for name, shard in zip(names[bucket], _shards(spool.read(bucket)), strict=True):
            output.write_table(f"{prefix}{name}", shard.select(schema.names))
    output.write(index, canonical_json({"rows": counts}).encode())
    return manifest


def _contents(rows: pa.Table) -> Iterator[tuple[str, ...]]:
    """All of each row as texts."""
    columns = [["" if value is None else f"={value}" for value in rows[name].to_pylist()] for name in MANIFEST.names]
    return zip(*columns, strict=True)
