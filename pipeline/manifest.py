"""What is to be done: the input's listing, or the user's own manifest, as bucketed Parquet shards below the output.

Rows stream through a spool on the driver's disk, so that memory holds one bucket at a time. Shards are sorted and
named by content, and their folder by all of them: the same input gives the same keys and is not written twice.
"""

import contextlib
import csv
import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.asked import parse_edits, parse_prompts
from pipeline.identity import bucket_of, canonical_json, part_key, sample_id, sha256_bytes
from pipeline.recipe import Input, RecipeError
from pipeline.retrying import StorageError, UnansweredError, room_on, settled
from pipeline.schema import LISTING, MANIFEST, table_of
from pipeline.storage import Store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_SHARD_ROWS = 4096
_SPOOL_ROWS = 8192
_STAT_THREADS, _STAT_ROWS = 32, 16
"""Many threads where each answer takes long; some rows each, since on a disk handing them over takes longer."""
_FOLDERS_KNOWN = 4096
_SUFFIXES_TOLD, _SUFFIXES_KNOWN = 3, 1024
"""Of files that are no images; some end in a number each, and a listing is never held."""
_FIELD_CHARACTERS = 1 << 24
"""The longest field of a CSV; one that is longer has lost its closing quote."""
_GIVEN = ("source_prompt", "target_prompts", "edits")
_MEND = "a text that is no UTF-8 cannot be stored; rename the file, or mend the row"

_ORDER = ("sample_id", "source_prompt", "target_prompts", "edits", "problem", "fields")
"""What rows are sorted by, none before any; rows that are equal in these are one."""

Row = dict[str, Any]


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


def check_apart(source: Input, output: Store) -> None:
    """Raise RecipeError where one of `input.path` and the output lies inside the other: images would become inputs."""
    if source.path is None:
        return
    path = storage.normalise(source.path)
    if f"{output.root}/".startswith(f"{path}/") or f"{path}/".startswith(f"{output.root}/"):
        raise RecipeError(
            f"output: of {output.root} and input.path {path} one lies inside the other, so that edited images would "
            "become inputs; put the output elsewhere"
        )


class NothingListedError(RecipeError):
    """An input without a single row."""


def prepare_manifest(
    source: Input,
    output: Store,
    columns: frozenset[str] = frozenset(),
    schema: pa.Schema = MANIFEST,
) -> Manifest:
    """List the input and write its shards below the output; raises NothingListedError when there is nothing to list.

    Of a user's manifest `columns` are kept as fields, for a template. `schema`: LISTING to keep the sources' times, of
    which a manifest's name knows nothing. What a listing passes over is told on stderr.
    """
    passed_over: Counter[str] = Counter()
    if source.path is not None:
        rows = _listed_rows(storage.normalise(source.path), passed_over)
        nothing = f"input.path: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {source.path}"
    else:
        assert source.manifest is not None
        rows = _user_rows(storage.normalise(source.manifest), columns)
        nothing = f"input.manifest: {source.manifest} has no rows"
    manifest = write_manifest(rows, output, schema)
    if passed_over:
        print(_told(passed_over), file=sys.stderr, flush=True)
    if manifest is None:
        raise NothingListedError(nothing)
    return manifest


def write_manifest(rows: Iterable[Row], output: Store, schema: pa.Schema = MANIFEST) -> Manifest | None:
    """Write rows of LISTING as shards below the output; None, and nothing is written, where there is no row."""
    with room_on(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="eim-manifest-") as folder:
        spool = _Spool(Path(folder))
        spool.fill(rows)
        return _write_shards(spool, output, schema) if spool.buckets else None


def _row(
    uri: str,
    version: str = "",
    size: int | None = None,
    problem: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    modified: float | None = None,
) -> Row:
    if not _is_utf8(uri):
        problem = problem or f"NotUtf8: {uri}: {_MEND}"
        uri = _printable(uri)
    return {
        "sample_id": sample_id(uri, version),
        "uri": uri,
        "version": version,
        "size": size,
        "source_prompt": given.get("source_prompt"),
        "target_prompts": given.get("target_prompts"),
        "edits": given.get("edits"),
        "fields": given.get("fields"),
        "problem": problem and _printable(problem),
        "modified": modified,
    }


def _is_utf8(text: str) -> bool:
    """Whether it can be written: file names and JSON's escapes can bring halves of characters."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _printable(text: str) -> str:
    """The text with such halves as escapes, so that different names stay different."""
    return text.encode(errors="backslashreplace").decode()


def _listed_rows(source: str, passed_over: Counter[str]) -> Iterator[Row]:
    """passed_over: counts by suffix what is no image by its name."""
    for entry in storage.list_entries(source):
        suffix = Path(entry.uri).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            yield _row(entry.uri, entry.version, entry.size, modified=entry.modified)
        else:
            known = suffix in passed_over or len(passed_over) < _SUFFIXES_KNOWN
            passed_over[suffix if known else "others"] += 1


def _told(passed_over: Counter[str]) -> str:
    its = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in passed_over.most_common(_SUFFIXES_TOLD)]
    more = ["..."] if len(passed_over) > _SUFFIXES_TOLD else []
    return _printable(
        f"input.path: {passed_over.total():,} files are passed over, no images by their names: {', '.join(its + more)}"
    )


def _user_rows(path: str, columns: frozenset[str]) -> Iterator[Row]:
    """The rows of the user's manifest; what is wrong with a row becomes its `problem`, never an exception."""
    if not storage.exists(path):
        raise RecipeError(f"input.manifest: {path} is not there")
    folder = path.rpartition("/")[0]
    numbered = enumerate(_read_user_manifest(path), start=1)
    real_folder = lru_cache(_FOLDERS_KNOWN)(os.path.realpath)

    def rows_of(items: list[tuple[int, Any]]) -> list[Row]:
        return [_user_row(raw, f"{path}#row={number}", folder, columns, real_folder) for number, raw in items]

    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        while chunk := list(islice(numbered, _STAT_THREADS * _STAT_ROWS)):
            parts = [chunk[start : start + _STAT_ROWS] for start in range(0, len(chunk), _STAT_ROWS)]
            for rows in pool.map(rows_of, parts):
                yield from rows


def _read_user_manifest(path: str) -> Iterator[Any]:
    """Mappings, one for each row; a JSONL line that is no object comes as it is, a row that cannot be read as its
    error. Raises RecipeError where a CSV cannot be told apart into rows."""
    suffix = Path(path).suffix.lower()
    with storage.open_stream(path) as stream:
        if suffix == ".parquet":
            try:
                file = pq.ParquetFile(stream)
                _require_uri(path, file.schema_arrow.names)
                for batch in file.iter_batches(1024):
                    yield from _rows_of(batch)
            except pa.ArrowInvalid as error:
                raise RecipeError(f"input.manifest: {path} is no whole Parquet file: {error}") from None
            return
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        if suffix == ".csv":
            csv.field_size_limit(_FIELD_CHARACTERS)
            reader = csv.DictReader(lines)
            try:
                _require_uri(path, reader.fieldnames or [])
                yield from reader
            except csv.Error as error:
                raise RecipeError(
                    f"input.manifest: {path}, line {reader.line_num}: {error}; is a quote not closed?"
                ) from None
            return
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):  # no JSON, a number of too many digits, or too deep
                    yield line


def _rows_of(batch: pa.RecordBatch) -> list[Any]:
    """The rows as mappings; one that cannot be read as its error."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # Arrow does not check what a file calls text, or a time
        if len(batch) == 1:
            return [error]
        half = len(batch) // 2
        return _rows_of(batch.slice(0, half)) + _rows_of(batch.slice(half))


def _require_uri(path: str, columns: Iterable[str]) -> None:
    if "uri" not in columns:
        raise RecipeError(
            f"input.manifest: {path} has the columns {_printable(', '.join(columns))}; a column `uri` is needed"
        )


def _as_json(value: Any) -> str | None:
    """A JSON text of a JSON column, whether the file holds text or structure; empty becomes None."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, dict):  # Parquet structs hold every field in every row
        value = {key: item for key, item in value.items() if item is not None}
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = [{key: part for key, part in item.items() if part is not None} for item in value]
    return json.dumps(value, sort_keys=True) if value else None


def _user_row(raw: Any, where: str, folder: str, columns: frozenset[str], real_folder: Callable[[str], str]) -> Row:
    if isinstance(raw, Exception):
        kind = "NotUtf8" if isinstance(raw, UnicodeError) else "ManifestRow"
        return _row(where, problem=f"{kind}: {where}: {raw}")
    uri = raw.get("uri") if isinstance(raw, dict) else None
    if not isinstance(uri, str) or not uri.strip():
        kind = "no uri" if isinstance(raw, dict) else "not a JSON object"
        return _row(where, problem=f"ManifestRow: {where}: {kind}")
    if not _is_utf8(uri):
        return _row(uri, problem=f"NotUtf8: {where}: uri: {_MEND}")
    try:
        uri = storage.normalise(uri if "://" in uri or uri.startswith("/") else f"{folder}/{uri}", real_folder)
    except (StorageError, ValueError) as error:
        return _row(uri, problem=f"ManifestRow: {where}: {error}")
    given: dict[str, str | None] = dict.fromkeys((*_GIVEN, "fields"))
    problem = None
    try:
        json.dumps([raw.get(name) for name in (*_GIVEN, *columns)], ensure_ascii=False, default=str).encode()
        # Texts of any JSON value: a template writes them into a prompt.
        fields = {name: str(raw[name]) for name in sorted(columns) if raw.get(name) is not None}
        given["fields"] = json.dumps(fields) if fields else None
        given["source_prompt"] = str(raw["source_prompt"]).strip() or None if raw.get("source_prompt") else None
        given["target_prompts"] = _as_json(raw.get("target_prompts"))
        given["edits"] = _as_json(raw.get("edits"))
        if given["target_prompts"]:
            parse_prompts(given["target_prompts"])
        if given["edits"]:
            parse_edits(given["edits"])
    except UnicodeEncodeError:
        problem = f"NotUtf8: {where}: {_MEND}"
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"ManifestRow: {where}: {error}"
    try:
        entry = storage.stat(uri)
    except (OSError, ValueError, UnansweredError) as error:
        told = getattr(error, "strerror", None) or error
        return _row(uri, problem=problem or f"{type(error).__name__}: {uri}: {told}", given=given)
    return _row(uri, entry.version, entry.size, problem, given, entry.modified)


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
