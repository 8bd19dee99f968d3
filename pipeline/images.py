"""The edited images that storage holds, bucket by bucket, as their names tell them."""

from dataclasses import dataclass

from pipeline.identity import parse_image_key
from pipeline.storage import Store, list_entries


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


def stored_images(store: Store, bucket: str) -> list[StoredImage]:
    """All images of the samples of a bucket; what bears no image's name is left out."""
    images = []
    for entry in list_entries(store.uri("images"), bucket):
        key = store.key(entry.uri)
        if names := parse_image_key(key):
            images.append(StoredImage(key, *names, entry.size, entry.modified))
    return images
