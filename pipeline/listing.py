"""What the input holds: the images of a folder or prefix, or the rows of the user's own manifest."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipeline import storage
from pipeline.manifest import Manifest, write_manifest
from pipeline.manifest_row import Row, manifest_row, printable
from pipeline.recipe import Input, RecipeError
from pipeline.schema import MANIFEST
from pipeline.storage import Store
from pipeline.user_manifest import user_rows

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_SUFFIXES_TOLD, _SUFFIXES_KNOWN = 3, 1024
"""Of files that are no images; some end in a number each, and a listing is never held."""


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
        rows = user_rows(storage.normalise(source.manifest), columns)
        nothing = f"input.manifest: {source.manifest} has no rows"
    manifest = write_manifest(rows, output, schema)
    if passed_over:
        print(_told(passed_over), file=sys.stderr, flush=True)
    if manifest is None:
        raise NothingListedError(nothing)
    return manifest


def _listed_rows(source: str, passed_over: Counter[str]) -> Iterator[Row]:
    """passed_over: counts by suffix what is no image by its name."""
    for entry in storage.list_entries(source):
        suffix = Path(entry.uri).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            yield manifest_row(entry.uri, entry.version, entry.size, modified=entry.modified)
        else:
            known = suffix in passed_over or len(passed_over) < _SUFFIXES_KNOWN
            passed_over[suffix if known else "others"] += 1


def _told(passed_over: Counter[str]) -> str:
    its = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in passed_over.most_common(_SUFFIXES_TOLD)]
    more = ["..."] if len(passed_over) > _SUFFIXES_TOLD else []
    return printable(
        f"input.path: {passed_over.total():,} files are passed over, no images by their names: {', '.join(its + more)}"
    )
