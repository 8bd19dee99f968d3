"""Everything that touches a disk or an object store.

A URI is an absolute path or `s3://bucket/key`. S3 takes its endpoint, region and credentials from the `AWS_*`
environment of the process that reads or writes.
"""

import asyncio
import contextlib
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import sync
from tenacity import retry_if_exception_type

from pipeline.retrying import StorageError, code_of, relisting, retried

_T = TypeVar("_T")

_S3 = "s3://"
# A call to S3 passes three layers that could retry: botocore, s3fs, and `retried` around both. Only the last one sees
# a body that breaks off, and counts what it does; so the attempts are its own and the other two have one each. A call
# makes at most ATTEMPTS requests, and a store that hangs costs at most ATTEMPTS * _CALL_SECONDS and the pauses.
# Streams are read inside s3fs, where `retried` does not reach: there botocore and s3fs have the attempts.
_STREAM_ATTEMPTS = {"botocore": 4, "s3fs": 3}
_CONNECT_SECONDS, _READ_SECONDS, _CALL_SECONDS = 5, 15, 30
_PAGE_KEYS = 1000
_PARTIAL = ".partial"
_REMOVE = "bring it back from a copy, or remove it and run the job again"
_THREADS = 8


@dataclass(frozen=True)
class Entry:
    """One object of a listing: its full URI, its version as an opaque string, its size in bytes."""

    uri: str
    version: str
    size: int
    modified: float = field(compare=False)
    """Seconds since 1970, by the store's clock; stores round it differently in a listing and on request."""


@dataclass(frozen=True)
class Blob:
    """The bytes of one object and the version they belong to."""

    data: bytes
    version: str


@cache
def _s3(streams: bool = False) -> Any:
    # Several stores refuse the checksum trailers that botocore adds by default.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    attempts = _STREAM_ATTEMPTS if streams else {"botocore": 1, "s3fs": 1}
    config = {
        "retries": {"mode": "standard", "total_max_attempts": attempts["botocore"]},
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "max_pool_connections": 32,
    }
    # No instance that others may hold, too: the retries are set on it.
    store = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True, config_kwargs=config)
    store.retries = attempts["s3fs"]
    return store


async def _answer(method: str, **arguments: Any) -> Any:
    """What S3 answers, a body not read yet."""
    # No timeout of the client covers the wait for `100 Continue` before a PUT sends its body.
    return await asyncio.wait_for(_s3()._call_s3(method, **arguments), _CALL_SECONDS)


def _call(method: str, **arguments: Any) -> Any:
    return sync(_s3().loop, _answer, method, **arguments)


def is_s3(uri: str) -> bool:
    """Whether the URI names an object store rather than a disk."""
    return uri.startswith(_S3)


def normalise(uri: str, real_folder: Callable[[str], str] = os.path.realpath) -> str:
    """An absolute path without links or an `s3://` URI, without a trailing slash. Raises StorageError on other schemes.

    `real_folder`: what `os.path.realpath` says of a folder, for callers with many files in few of them.
    """
    if is_s3(uri):
        if not uri.removeprefix(_S3).strip("/"):
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


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    return bucket, key


def _disk_version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _read_disk(path: str) -> Blob:
    with open(path, "rb") as file:
        before = _disk_version(os.fstat(file.fileno()))
        data = file.read()
        # A file that is written over meanwhile has neither version: the bytes may be of both.
        after = _disk_version(os.fstat(file.fileno()))
        return Blob(data, before if before == after else f"{before}, while it was read {after}")


def _read_s3(uri: str) -> Blob:
    bucket, key = _split(uri)

    async def get() -> Blob:
        answer = await _answer("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer.get("ContentLength"):
            raise OSError(errno.EIO, f"{len(data)} bytes came, {answer.get('ContentLength')} were announced")
        return Blob(data, answer["ETag"].strip('"'))

    return sync(_s3().loop, get)


def read(uri: str) -> Blob:
    """An object's bytes, all of them, and the version they belong to.

    Raises FileNotFoundError, PermissionError or StorageError.
    """
    return retried("get", uri, _read_s3 if is_s3(uri) else _read_disk, uri)


def _head(bucket: str, key: str) -> Any:
    try:
        return _call("head_object", Bucket=bucket, Key=key)
    except OSError as error:
        if code_of(error) not in ("400", "403"):
            raise
        # Answers to HEAD have no body that would name the error; those to GET have.
        _call("get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
        raise


def _stat(uri: str) -> Entry:
    if is_s3(uri):
        head = _head(*_split(uri))
        return Entry(uri, head["ETag"].strip('"'), int(head["ContentLength"]), head["LastModified"].timestamp())
    stat = os.stat(uri)
    if not S_ISREG(stat.st_mode):
        raise IsADirectoryError(f"{uri} is not a file")
    return Entry(uri, _disk_version(stat), stat.st_size, stat.st_mtime)


def stat(uri: str) -> Entry:
    """Version and size without the bytes. Raises FileNotFoundError, PermissionError or StorageError."""
    return retried("head", uri, _stat, uri)


def exists(uri: str) -> bool:
    """Whether an object (not a folder) is there."""
    try:
        stat(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def _write_disk(path: str, data: bytes) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{name[:40]}.", suffix=_PARTIAL, dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            # A name that outlives a power cut must not outlive its bytes.
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _write_s3(uri: str, data: bytes) -> None:
    bucket, key = _split(uri)
    _call("put_object", Bucket=bucket, Key=key, Body=data)


def write(uri: str, data: bytes) -> None:
    """Put an object whole or not at all; it replaces what is there."""
    retried("put", uri, _write_s3 if is_s3(uri) else _write_disk, uri, data)


def _delete(uri: str) -> None:
    try:
        if is_s3(uri):
            bucket, key = _split(uri)
            _call("delete_object", Bucket=bucket, Key=key)
        else:
            # Its folder stays, even empty: a writer may be about to put something there.
            os.unlink(uri)
    except FileNotFoundError:
        pass


def delete(uri: str) -> None:
    """Remove an object; one that is not there is no error."""
    retried("delete", uri, _delete, uri)


def open_stream(uri: str) -> IO[bytes]:
    """A readable, seekable stream, for user files that may not fit in memory."""
    return _s3(streams=True).open(uri, "rb") if is_s3(uri) else open(uri, "rb")


def _scan(folder: str, beginning: str) -> tuple[list[str], set[str]]:
    """The names in a folder that begin so, in order, and which of them are folders."""
    names, folders_among = [], set()
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.name.startswith(beginning):
                names.append(entry.name)  # an entry takes ten times as much, and there may be very many
                if _is_folder(entry):
                    folders_among.add(entry.name)
    return sorted(names), folders_among


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _walk_disk(folder: str, beginning: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of all that is no folder, in order of their names, without asking what they are."""
    above = (*above, folder)
    try:
        names, folders_among = retried("list", folder, _scan, folder, beginning)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = os.path.join(folder, name)
        if name in folders_among:
            if not (os.path.islink(path) and _leads_back(path, above)):
                yield from _walk_disk(path, above=above)
        elif not (name.startswith(".") and name.endswith(_PARTIAL)):
            yield path


def _list_disk(folder: str, beginning: str) -> Iterator[Entry]:
    for path in _walk_disk(folder, beginning):
        try:
            found = retried("head", path, os.stat, path)
        except OSError as error:
            # A link that leads nowhere or to itself, or what went meanwhile.
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ELOOP:
                raise
            continue
        if S_ISREG(found.st_mode):
            yield Entry(path, _disk_version(found), found.st_size, found.st_mtime)


def _leads_back(link: str, above: tuple[str, ...]) -> bool:
    """Whether a link leads to a folder that is being listed."""
    return os.path.realpath(link) in map(os.path.realpath, above)


def _pages_s3(uri: str, beginning: str, **options: str) -> Iterator[dict[str, Any]]:
    bucket, key = _split(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""
    page: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}{beginning}", "MaxKeys": _PAGE_KEYS, **options}
    while True:
        answer = retried("list", uri, _call, "list_objects_v2", **page)
        yield answer
        if not answer.get("IsTruncated"):
            return
        page["ContinuationToken"] = answer["NextContinuationToken"]


def _list_s3(uri: str, beginning: str) -> Iterator[Entry]:
    bucket, _ = _split(uri)
    for page in _pages_s3(uri, beginning):
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):
                name, version = f"{_S3}{bucket}/{found['Key']}", found["ETag"].strip('"')
                yield Entry(name, version, int(found["Size"]), found["LastModified"].timestamp())


def list_entries(uri: str, beginning: str = "") -> Iterator[Entry]:
    """All objects below a folder or prefix, streamed in order of their names; nothing when it is not there.

    With `beginning`, only what is named so directly below it, and everything in folders that are named so.
    """
    return _list_s3(uri, beginning) if is_s3(uri) else _list_disk(uri, beginning)


def list_names(uri: str) -> Iterator[str]:
    """The URIs of all objects below a folder or prefix, in order; also of one that goes while they are listed, so that
    whoever reads it meets FileNotFoundError."""
    return (entry.uri for entry in _list_s3(uri, "")) if is_s3(uri) else _walk_disk(uri)


def folders(uri: str, beginning: str = "") -> list[str]:
    """The names of the folders directly below a folder or prefix that begin so, in order."""
    if is_s3(uri):
        pages = _pages_s3(uri, beginning, Delimiter="/")
        return [found["Prefix"].split("/")[-2] for page in pages for found in page.get("CommonPrefixes", ())]
    try:
        with os.scandir(uri) as scan:
            return sorted(entry.name for entry in scan if entry.name.startswith(beginning) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def stream_folders(uri: str) -> Iterator[str]:
    """The names of the folders directly below a folder on disk, one after the other, in no order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(uri) as scan:
        yield from (entry.name for entry in scan if entry.is_dir())


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
