"""The edited images that storage holds, bucket by bucket, as their names tell them."""

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from pipeline.disk import stream_folders
from pipeline.identity import bucket_of, parse_image_key
from pipeline.retrying import room_on
from pipeline.storage import Store, in_threads, is_s3, list_entries

_FOLDERS = 512
"""That one thread lists at a time."""


@dataclass(frozen=True)
class StoredImage:
    """One image below a run."""

    key: str
    sample_id: str
    edit_id: str
    sha16: str
    """The first 16 hex digits of the sha256 of its bytes."""
    size: int
    """In bytes."""
    modified: float
    """Seconds since 1970, by the store's clock."""


@dataclass(frozen=True)
class ImagesOf:
    """The images of a run, asked for by bucket.

    A disk lists a folder as a whole, so the names of all samples went once into `spool`, a file for each bucket; None:
    the store lists by prefix.
    """

    store: Store
    spool: Path | None

    def __call__(self, bucket: str, named: Collection[str]) -> list[StoredImage]:
        """The images of a bucket, listed now; `named`: the samples that its rows name. On a disk, samples that have
        come since `stored_images` began are seen where rows name them."""
        if self.spool is None:
            return list(_below(self.store, "images", bucket))
        names = _names_file(self.spool, bucket)
        spooled = names.read_bytes().split(b"\n")[:-1] if names.exists() else []
        samples = sorted({*named, *map(os.fsdecode, spooled)})
        parts = [samples[start : start + _FOLDERS] for start in range(0, len(samples), _FOLDERS)]
        return [image for part in in_threads(partial(_of_samples, self.store), parts) for image in part]


@contextlib.contextmanager
def stored_images(store: Store) -> Iterator[ImagesOf]:
    """The images of a run while the block lasts; what bears no image's name is left out."""
    if is_s3(store.root):
        yield ImagesOf(store, None)
        return
    with room_on(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="eim-images-") as spool:
        _spool_samples(store, Path(spool))
        yield ImagesOf(store, Path(spool))


def _spool_samples(store: Store, spool: Path) -> None:
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for sample in stream_folders(store.uri("images")):
            bucket = bucket_of(sample)
            if bucket not in files:
                files[bucket] = stack.enter_context(open(_names_file(spool, bucket), "wb"))
            files[bucket].write(os.fsencode(sample) + b"\n")


def _of_samples(store: Store, samples: Sequence[str]) -> list[StoredImage]:
    return [image for sample in samples for image in _below(store, f"images/{sample}")]


def _names_file(spool: Path, bucket: str) -> Path:
    return spool / f"bucket-{bucket}"


def _below(store: Store, folder: str, beginning: str = "") -> Iterator[StoredImage]:
    for entry in list_entries(store.uri(folder), beginning):
        key = store.key(entry.uri)
        if names := parse_image_key(key):
            yield StoredImage(key, *names, entry.size, entry.modified)
