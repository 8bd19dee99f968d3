"""The Arrow schemas of everything written, with a version that changes when a column changes its meaning."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3

_timestamp = pa.timestamp("us", tz="UTC")

MANIFEST = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size", pa.int64()),
        ("source_prompt", pa.string()),  # given by the user's manifest, else null
        ("target_prompts", pa.string()),  # JSON, attribute -> prompt; given by the user's manifest, else null
        ("edits", pa.string()),  # JSON list; null: the recipe's edits
        ("fields", pa.string()),  # JSON, column -> value, of those that the recipe's template uses; null: none
        ("problem", pa.string()),  # why this row can only become failures; null: none known
    ]
)
"""One row for each image to be edited."""

LISTING = MANIFEST.append(pa.field("modified", pa.float64()))
"""As MANIFEST, with the seconds since 1970 at which the source was written, by the store's clock; null: not known."""

EDITS = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("sample_id", pa.string()),
        ("edit_id", pa.string()),
        ("fingerprint", pa.string()),
        ("source_uri", pa.string()),
        ("source_etag", pa.string()),  # the version: an ETag, or size-mtime_ns on disk
        ("source_sha256", pa.string()),
        ("width", pa.int32()),  # of the edited image
        ("height", pa.int32()),
        ("source_width", pa.int32()),  # upright
        ("source_height", pa.int32()),
        ("model_width", pa.int32()),  # at which the model edited it; psnr and ssim are of this size
        ("model_height", pa.int32()),
        ("source_prompt", pa.string()),
        ("target_prompt", pa.string()),  # of a composed edit: one for each attribute, joined by ' + '
        ("attribute", pa.string()),  # of a composed edit: joined by ' + '
        ("target", pa.string()),
        ("strength", pa.float64()),
        ("direction_id", pa.string()),
        ("direction_method", pa.string()),  # of the image half: hsds, dds (also if HSDS did no better), shared or none
        ("direction_residual", pa.float64()),  # unexplained on held-out noise, of no shift; null: not measured
        ("direction_iterations", pa.int32()),  # of the HSDS solver
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("captioner", pa.string()),
        ("captioner_revision", pa.string()),
        ("image_uri", pa.string()),
        ("image_sha256", pa.string()),
        ("psnr", pa.float64()),  # dB, edited against source; 100 when equal
        ("ssim", pa.float64()),
        ("recon_psnr", pa.float64()),  # dB, inversion at strength 0 against the VAE round trip; null: not measured
        ("evaluations", pa.float64()),  # model evaluations for this edit
        ("batch", pa.int32()),  # rows of its model calls; below the recipe's after the device ran out of memory
        ("seconds_caption", pa.float64()),  # this edit's share of its image's captioning
        ("seconds_edit", pa.float64()),  # this edit's share of its block's editing
        ("seconds_write", pa.float64()),  # putting the image
        ("partition", pa.string()),  # date of the augmentation that made it, as 2030-01-31; null: made by another job
        ("created_at", _timestamp),
    ]
)
"""One raw row for each image written; `ledger.py` turns raw rows into the view."""

FAILURES = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("sample_id", pa.string()),
        ("edit_id", pa.string()),
        ("fingerprint", pa.string()),
        ("source_uri", pa.string()),
        ("attribute", pa.string()),
        ("target", pa.string()),
        ("strength", pa.float64()),
        ("stage", pa.string()),  # prepare, load, caption, encode, identify, edit, score or write
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("partition", pa.string()),  # as in EDITS
        ("created_at", _timestamp),
    ]
)
"""One raw row for each edit that was asked for and could not be made."""


def table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema; a row with a key that the schema lacks, or without one, is an error."""
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise ValueError(f"row keys differ from the schema: {sorted(row.keys() ^ names)}")
    return pa.Table.from_pylist(list(rows), schema=schema)
