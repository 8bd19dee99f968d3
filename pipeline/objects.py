"""What a store tells of an object, and what every kind of store can do."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol


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


class Objects(Protocol):
    """A kind of store, as one module each (`disk`, `s3`): single attempts, but that streams and listings
    retry within."""

    def read(self, uri: str, /) -> Blob: ...
    def stat(self, uri: str, /) -> Entry: ...
    def write(self, uri: str, data: bytes, /) -> None: ...
    def delete(self, uri: str, /) -> None: ...
    def open_stream(self, uri: str, /) -> IO[bytes]: ...
    def list_entries(self, uri: str, beginning: str, /) -> Iterator[Entry]: ...
    def list_names(self, uri: str, /) -> Iterator[str]: ...
    def folders(self, uri: str, beginning: str, /) -> list[str]: ...
