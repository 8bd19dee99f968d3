"""Objects of an S3 store, by `s3://bucket/key`. Errors are those that s3fs makes of the store's answers.

Endpoint, region and credentials come from the `AWS_*` environment of the process that reads or writes.
"""

import asyncio
import errno
import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import IO, Any

import fsspec
from fsspec.asyn import sync

from pipeline.objects import Blob, Entry
from pipeline.retrying import code_of, retried

SCHEME = "s3://"
# A call to S3 passes three layers that could retry: botocore, s3fs, and `retried` around both. Only the last one sees
# a body that breaks off, and counts what it does; so the attempts are its own and the other two have one each. A call
# makes at most ATTEMPTS requests, and a store that hangs costs at most ATTEMPTS * _CALL_SECONDS and the pauses; of a
# PUT also the time that its body takes on a slow line.
# Streams are read inside s3fs, where `retried` does not reach: there botocore and s3fs have the attempts.
_STREAM_ATTEMPTS = {"botocore": 4, "s3fs": 3}
_CONNECT_SECONDS, _READ_SECONDS, _CALL_SECONDS = 5, 15, 30
_SLOW_LINE = 2**20
"""Bytes a second, at which a body must arrive at least."""
_PAGE_KEYS = 1000


@cache
def _client(streams: bool = False) -> Any:
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
    # No timeout of the client covers the wait for `100 Continue` before a PUT sends its body, nor that itself.
    seconds = _CALL_SECONDS + len(arguments.get("Body", b"")) / _SLOW_LINE
    return await asyncio.wait_for(_client()._call_s3(method, **arguments), seconds)


def _call(method: str, **arguments: Any) -> Any:
    return sync(_client().loop, _answer, method, **arguments)


def _version(answer: Mapping[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key


def read(uri: str) -> Blob:
    """An object's bytes, held against the length that was announced, and its version."""
    bucket, key = _split(uri)

    async def get() -> Blob:
        answer = await _answer("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer.get("ContentLength"):
            raise OSError(errno.EIO, f"{len(data)} bytes came, {answer.get('ContentLength')} were announced")
        return Blob(data, _version(answer))

    return sync(_client().loop, get)


def stat(uri: str) -> Entry:
    """Version and size of an object."""
    head = _head(*_split(uri))
    return Entry(uri, _version(head), int(head["ContentLength"]), head["LastModified"].timestamp())


def _head(bucket: str, key: str) -> Any:
    try:
        return _call("head_object", Bucket=bucket, Key=key)
    except OSError as error:
        if code_of(error) not in ("400", "403"):
            raise
        # Answers to HEAD have no body that would name the error; those to GET have.
        _call("get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
        raise


def write(uri: str, data: bytes) -> None:
    """Put an object."""
    bucket, key = _split(uri)
    _call("put_object", Bucket=bucket, Key=key, Body=data)


def delete(uri: str) -> None:
    """Remove an object."""
    bucket, key = _split(uri)
    _call("delete_object", Bucket=bucket, Key=key)


def open_stream(uri: str) -> IO[bytes]:
    """A readable, seekable stream."""
    return _client(streams=True).open(uri, "rb")


def _pages(uri: str, beginning: str, **options: str) -> Iterator[dict[str, Any]]:
    bucket, key = _split(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""
    page: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}{beginning}", "MaxKeys": _PAGE_KEYS, **options}
    while True:
        answer = retried("list", uri, _call, "list_objects_v2", **page)
        yield answer
        if not answer.get("IsTruncated"):
            return
        page["ContinuationToken"] = answer["NextContinuationToken"]


def list_entries(uri: str, beginning: str) -> Iterator[Entry]:
    """All objects below a prefix, in order of their keys; with `beginning`, whose keys go on so behind it."""
    bucket, _ = _split(uri)
    for page in _pages(uri, beginning):
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):
                name = f"{SCHEME}{bucket}/{found['Key']}"
                yield Entry(name, _version(found), int(found["Size"]), found["LastModified"].timestamp())


def list_names(uri: str) -> Iterator[str]:
    """The URIs of all objects below a prefix, in order."""
    return (entry.uri for entry in list_entries(uri, ""))


def folders(uri: str, beginning: str) -> list[str]:
    """The names of the prefixes directly below a prefix that begin so, in order."""
    pages = _pages(uri, beginning, Delimiter="/")
    return [found["Prefix"].split("/")[-2] for page in pages for found in page.get("CommonPrefixes", ())]
