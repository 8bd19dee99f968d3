"""Neutral rows and recipes; a test names what matters to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from eim_ops.aspect_buckets import Size
from pipeline.ask_records import Ask
from pipeline.asked_edits import AskedEdit, asked_edits, edits_to_json
from pipeline.attempts import Attempts
from pipeline.decode import encode_png
from pipeline.failure_limit import FailureLimit
from pipeline.fit import Fit
from pipeline.ledger import open_run
from pipeline.listing import prepare_manifest
from pipeline.manifest import Manifest
from pipeline.operations import pixel_settings
from pipeline.progress import Progress
from pipeline.recipe import Input, Recipe, parse_recipe
from pipeline.schema import EDITS, FAILURES
from pipeline.sink import EditSink, RunFacts
from pipeline.storage import Store, open_store
from pipeline.work import BLANK, BLANK_RESULT, table_of_work
from tests.fakes import fake_operations

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


def square(side: int) -> Fit:
    """Images of one square size."""
    return Fit((Size(side, side),))


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


def result(edit_id: str, shade: int = 0, **changes: Any) -> Row:
    """An edit that was made: a plain image of this shade."""
    image = encode_png(np.full((16, 16, 3), shade, np.uint8))
    done = {"edit_id": edit_id, "target_prompts": ["t"], "image": image, "width": 16, "height": 16, "psnr": 30.0}
    return {**BLANK_RESULT, **done, **changes}


@dataclass(frozen=True)
class Job:
    """An edit job up to its first write: input listed, settings and ask recorded."""

    recipe: Recipe
    output: Store
    store: Store
    fingerprint: str
    manifest: Manifest

    @property
    def samples(self) -> list[Row]:
        """The manifest's rows, in order of their ids."""
        return [row for bucket in sorted(self.manifest.rows) for row in self.manifest.read(bucket)]

    def edits(self, sample: Row) -> list[AskedEdit]:
        """What is asked of a manifest row."""
        return asked_edits(sample, self.recipe.edits)

    def write(self, samples: Sequence[Row], shade: int = 0, error: str | None = None, attempts: int = 0) -> None:
        """One write task that makes every edit of these rows, in this shade, or fails with this error."""
        rows = []
        for sample in samples:
            edits = [AskedEdit(**{**vars(edit), "attempts": attempts}) for edit in self.edits(sample)]
            row = work_row(*edits, sample_id=sample["sample_id"], uri=sample["uri"], version=sample["version"])
            failed = {"error_stage": "load", "error_type": "E", "error_message": error}
            made = {"results": [result(edit.edit_id, shade) for edit in edits]}
            rows.append({**row, **(made if error is None else failed)})
        facts = RunFacts(self.fingerprint, "m", "mr", "c", "cr")
        EditSink(self.store, facts, Progress(), FailureLimit(1000), Attempts())(table_of_work(rows))


def start_job(root: str, images: int = 3, *, revision: str = "fake-1", new_run: bool = False, **changes: Any) -> Job:
    """Put `images` inputs below a root and begin a job on them; they need not be images, since nothing reads them."""
    for index in range(images):
        if not open_store(root).exists(f"in/{index}.png"):
            open_store(root).write(f"in/{index}.png", str(index).encode())
    recipe = make_recipe(**{"input": {"path": f"{root}/in"}, "output": f"{root}/out", **changes})
    output = open_store(recipe.output)
    manifest = prepare_manifest(recipe.input, output, recipe.template_columns)
    settings = pixel_settings(recipe, fake_operations(revision=revision).facts(recipe))
    store, fingerprint = open_run(output, settings, new_run)
    Ask(fingerprint, manifest.prefix, recipe.edits).record(store)
    return Job(recipe, output, store, fingerprint, manifest)


def listed_rows(manifest: Manifest) -> list[Row]:
    """A manifest's rows by their images' names."""
    return sorted((row for bucket in manifest.rows for row in manifest.read(bucket)), key=lambda row: row["uri"])


def prepared_rows(root: str, source: Input) -> list[Row]:
    """The rows of an input, prepared below `<root>/out`."""
    return listed_rows(prepare_manifest(source, open_store(f"{root}/out")))


def as_jsonl(rows: Sequence[Row]) -> bytes:
    """A user's manifest, a line a row."""
    return "\n".join(json.dumps(row) for row in rows).encode()
