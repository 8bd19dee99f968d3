"""Neutral rows and recipes; a test names what matters to it."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.asked import AskedEdit, edits_to_json
from pipeline.recipe import Recipe, parse_recipe
from pipeline.schema import EDITS, FAILURES
from pipeline.work import BLANK

Row = dict[str, Any]
SMILE = {"attribute": "smile", "target": "broad smile", "strengths": [1]}


def make_recipe(**changes: Any) -> Recipe:
    """A small recipe with these keys changed."""
    neutral = {"input": {"path": "in"}, "output": "out", "model": "fake", "captioner": "fake", "edits": [SMILE]}
    return parse_recipe({**neutral, **changes})


def _neutral(schema: pa.Schema) -> Row:
    values = {pa.string(): "x", pa.int32(): 1, pa.int64(): 1, pa.float64(): 1.0}
    return {field.name: values.get(field.type, datetime(2030, 1, 1, tzinfo=UTC)) for field in schema}


def edit_row(**changes: Any) -> Row:
    """A raw row of edits/."""
    return {**_neutral(EDITS), **changes}


def failure_row(**changes: Any) -> Row:
    """A raw row of failures/."""
    return {**_neutral(FAILURES), **changes}


def asked(edit_id: str = "e", strength: float = 1.0, request: str = "smile", given: str | None = None) -> AskedEdit:
    """An asked edit of one attribute."""
    return AskedEdit(edit_id, ("smile",), ("broad smile",), (request,), strength, (given,))


def work_row(*edits: AskedEdit, **changes: Any) -> Row:
    """A row as it comes from reading."""
    return {
        **BLANK,
        "sample_id": "ab",
        "uri": "u",
        "version": "v",
        "edits": edits_to_json(edits or [asked()]),
        **changes,
    }
