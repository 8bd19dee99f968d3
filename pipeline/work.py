"""The row that travels through the stages: one for each image, from reading to writing."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

Row = dict[str, Any]

_ERROR = [("error_stage", pa.string()), ("error_type", pa.string()), ("error_message", pa.string())]

RESULT = pa.struct(
    [
        ("edit_id", pa.string()),
        ("target_prompts", pa.list_(pa.string())),  # one for each attribute
        ("image", pa.large_binary()),  # raw RGB after editing, PNG after scoring
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("direction_id", pa.string()),
        ("direction_method", pa.string()),
        ("direction_residual", pa.float64()),
        ("direction_iterations", pa.int32()),
        ("recon_psnr", pa.float64()),
        ("evaluations", pa.float64()),
        ("batch", pa.int32()),
        ("psnr", pa.float64()),
        ("ssim", pa.float64()),
        *_ERROR,
    ]
)
"""One edit of an image on its way."""

HALF = pa.struct([("prompt", pa.string()), ("half", pa.large_binary()), *_ERROR])
"""The image half of a direction between stages: one for each target prompt of an image."""

WORK = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("source_prompt", pa.string()),
        ("edits", pa.string()),  # JSON of the AskedEdits that are left
        ("fields", pa.string()),  # as in the manifest
        ("image", pa.large_binary()),  # PNG at the size that the model edits
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("model_width", pa.int32()),
        ("model_height", pa.int32()),
        ("source_sha256", pa.string()),
        ("seed", pa.int64()),
        ("seconds_caption", pa.float64()),
        ("seconds_edit", pa.float64()),
        ("results", pa.list_(RESULT)),
        ("encoded", pa.large_binary()),  # split placement: the image's latents, from encoding until its edits are made
        ("halves", pa.list_(HALF)),  # the same, from identifying
        ("batch", pa.int32()),  # the smallest of encoding and identifying
        ("attempts", pa.int32()),  # of this run, where the row was set aside; else null
        *_ERROR,
    ]
)
"""One image on its way; columns that no stage has filled yet are null."""

BLANK_RESULT: Row = {field.name: None for field in RESULT}
BLANK_HALF: Row = {field.name: None for field in HALF}
BLANK: Row = {name: None for name in WORK.names}
_MESSAGE_LENGTH = 500


def table_of_work(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table of the schema WORK."""
    return pa.Table.from_pylist(list(rows), schema=WORK)


def error_on(stage: str, error: BaseException) -> Row:
    """The error columns of a row or a result."""
    message = str(error).strip()[:_MESSAGE_LENGTH] or "no message"
    return {"error_stage": stage, "error_type": type(error).__name__, "error_message": message}


def source_image(row: Row) -> Image.Image:
    """The source as the model sees it."""
    return Image.open(io.BytesIO(row["image"])).convert("RGB")
