"""The user's own manifest, Parquet, CSV or JSONL: its rows, each with what is wrong with it."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.asked_edits import parse_edits, parse_prompts
from pipeline.manifest_row import MEND, Row, is_utf8, manifest_row, printable
from pipeline.recipe import RecipeError
from pipeline.retrying import StorageError, UnansweredError

_STAT_THREADS, _STAT_ROWS = 32, 16
"""Many threads where each answer takes long; some rows each, since on a disk handing them over takes longer."""
_FOLDERS_KNOWN = 4096
_FIELD_CHARACTERS = 1 << 24
"""The longest field of a CSV; one that is longer has lost its closing quote."""
_GIVEN = ("source_prompt", "target_prompts", "edits")


def user_rows(path: str, columns: frozenset[str]) -> Iterator[Row]:
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
            f"input.manifest: {path} has the columns {printable(', '.join(columns))}; a column `uri` is needed"
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
        return manifest_row(where, problem=f"{kind}: {where}: {raw}")
    uri = raw.get("uri") if isinstance(raw, dict) else None
    if not isinstance(uri, str) or not uri.strip():
        kind = "no uri" if isinstance(raw, dict) else "not a JSON object"
        return manifest_row(where, problem=f"ManifestRow: {where}: {kind}")
    if not is_utf8(uri):
        return manifest_row(uri, problem=f"NotUtf8: {where}: uri: {MEND}")
    try:
        uri = storage.normalise(uri if "://" in uri or uri.startswith("/") else f"{folder}/{uri}", real_folder)
    except (StorageError, ValueError) as error:
        return manifest_row(uri, problem=f"ManifestRow: {where}: {error}")
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
        problem = f"NotUtf8: {where}: {MEND}"
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"ManifestRow: {where}: {error}"
    try:
        entry = storage.stat(uri)
    except (OSError, ValueError, UnansweredError) as error:
        told = getattr(error, "strerror", None) or error
        return manifest_row(uri, problem=problem or f"{type(error).__name__}: {uri}: {told}", given=given)
    return manifest_row(uri, entry.version, entry.size, problem, given, entry.modified)
