"""Objects on a disk or in an object store by their URIs: calls are retried, errors say what and where.

A URI is an absolute path or `s3://bucket/key`.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import retry_if_exception_type

from pipeline import disk, s3
from pipeline.objects import Blob, Entry, Objects
from pipeline.retrying import StorageError, relisting, retried

_T = TypeVar("_T")

_REMOVE = "bring it back from a copy, or remove it and run the job again"
_THREADS = 8


def is_s3(uri: str) -> bool:
    """Whether the URI names an object store rather than a disk."""
    return uri.startswith(s3.SCHEME)


def normalise(uri: str, real_folder: Callable[[str], str] = os.path.realpath) -> str:
    """An absolute path without links or an `s3://` URI, without a trailing slash. Raises StorageError on other schemes.

    `real_folder`: what `os.path.realpath` says of a folder, for callers with many files in few of them.
    """
    if is_s3(uri):
        if not uri.removeprefix(s3.SCHEME).strip("/"):
            raise StorageError(f"{uri!r} names no bucket; write s3://bucket/prefix")
        return uri.rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(f"{uri!r}: only folders and s3:// are known")
    path = uri.removeprefix("file://")
    if not path.startswith("/"):
        path = os.path.join(os.getcwd(), os.path.expanduser(path))
    path = path.rstrip("/") or "/"  # with a slash behind it, a link is taken for what it leads to
    folder, _, name = path.rpartition("/")
    if name in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    return os.path.join(real_folder(folder or "/"), name)


def _objects(uri: str) -> Objects:
    return s3 if is_s3(uri) else disk


def read(uri: str) -> Blob:
    """An object's bytes, all of them, and the version they belong to.

    Raises FileNotFoundError, PermissionError or StorageError.
    """
    return retried("get", uri, _objects(uri).read, uri)


def stat(uri: str) -> Entry:
    """Version and size without the bytes. Raises FileNotFoundError, PermissionError or StorageError."""
    return retried("head", uri, _objects(uri).stat, uri)


def exists(uri: str) -> bool:
    """Whether an object (not a folder) is there."""
    try:
        stat(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def write(uri: str, data: bytes) -> None:
    """Put an object whole or not at all; it replaces what is there."""
    retried("put", uri, _objects(uri).write, uri, data)


def delete(uri: str) -> None:
    """Remove an object; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        retried("delete", uri, _objects(uri).delete, uri)


def open_stream(uri: str) -> IO[bytes]:
    """A readable, seekable stream, for user files that may not fit in memory."""
    return _objects(uri).open_stream(uri)


def list_entries(uri: str, beginning: str = "") -> Iterator[Entry]:
    """All objects below a folder or prefix, streamed in order of their names; nothing when it is not there.

    With `beginning`, only what is named so directly below it, and everything in folders that are named so.
    """
    return _objects(uri).list_entries(uri, beginning)


def list_names(uri: str) -> Iterator[str]:
    """The URIs of all objects below a folder or prefix, in order; also of one that goes while they are listed, so that
    whoever reads it meets FileNotFoundError."""
    return _objects(uri).list_names(uri)


def folders(uri: str, beginning: str = "") -> list[str]:
    """The names of the folders directly below a folder or prefix that begin so, in order."""
    return _objects(uri).folders(uri, beginning)


@dataclass(frozen=True)
class Store:
    """One output: a root, and objects by their keys below it."""

    root: str

    def uri(self, key: str) -> str:
        """The full URI of a key."""
        return f"{self.root}/{key}"

    def below(self, prefix: str) -> "Store":
        """The store rooted at a prefix of this one."""
        return Store(self.uri(prefix))

    def read(self, key: str) -> bytes:
        """The bytes of an object; raises FileNotFoundError."""
        return read(self.uri(key)).data

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return exists(self.uri(key))

    def write(self, key: str, data: bytes) -> None:
        """Put an object whole or not at all."""
        write(self.uri(key), data)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        delete(self.uri(key))

    def key(self, uri: str) -> str:
        """The inverse of `uri`, for a URI below the root."""
        return uri.removeprefix(f"{self.root}/")

    def keys(self, prefix: str) -> list[str]:
        """The keys of all objects below a prefix, in order."""
        return [self.key(uri) for uri in list_names(self.uri(prefix))]

    def write_table(self, key: str, table: pa.Table) -> None:
        """Put a Parquet file, unless an object of that name is there: its name says what it holds."""
        if not self.exists(key):
            self.write(key, parquet_bytes(table))

    def read_table(self, key: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file as a table."""
        data = self.read(key)
        try:
            # Not `pq.read_table`, which takes a small file for a data set and three times as long.
            file = pq.ParquetFile(pa.BufferReader(data))
            return file.read(None if columns is None else list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:  # a page that cannot be decompressed is an OSError
            raise StorageError(f"{self.uri(key)} is damaged, no whole Parquet file: {error}; {_REMOVE}") from error

    def read_json(self, key: str) -> Any:
        """What a JSON object holds; raises FileNotFoundError."""
        try:
            return json.loads(self.read(key))
        except ValueError as error:
            raise StorageError(f"{self.uri(key)} is damaged, no whole JSON: {error}; {_REMOVE}") from error

    def read_parts(self, prefix: str, schema: pa.Schema, columns: Sequence[str]) -> tuple[list[str], pa.Table]:
        """The keys of all Parquet parts below a prefix, and their rows; columns that a part lacks are null."""
        # A part that goes between listing and reading was merged into one that a new listing shows.
        again = relisting(retry_if_exception_type(FileNotFoundError))
        try:
            return again(self._read_parts, prefix, pa.schema([schema.field(name) for name in columns]))
        except FileNotFoundError as error:
            raise StorageError(
                f"list {self.uri(prefix)}: names a part that is gone ({error}); the store's listings lag behind what "
                "was removed, so run the same command again later"
            ) from error

    def _read_parts(self, prefix: str, schema: pa.Schema) -> tuple[list[str], pa.Table]:
        keys = [key for key in self.keys(prefix) if key.endswith(".parquet")]
        tables = [_conform(self.read_table(key, schema.names), schema) for key in keys]
        return keys, pa.concat_tables(tables) if tables else schema.empty_table()

    def read_tables(self, prefix: str, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        """All Parquet parts below a prefix as one table of these columns; columns a part lacks are null."""
        return self.read_parts(prefix, schema, columns)[1]


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=4096)
    return buffer.getvalue()


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table
    arrays = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def open_store(uri: str) -> Store:
    """The store of an output path or `s3://` prefix; raises StorageError on other schemes."""
    return Store(normalise(uri))


def in_threads(call: Callable[[_T], Any], items: Sequence[_T]) -> list[Any]:
    """`call` of every item on a few threads, in order; the first error is raised after all have ended."""
    if len(items) <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(call, items))
