"""Outputs of runs that were stopped at nine tenths, as large as wanted: made by the run's own reader and sink, with no
model between them.
"""

import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_PROCESSES = 2
_FOLDER_FILES = 1000
_DONE, _FAILED = 10, 1000
"""Of so many rows one is left; of so many that are done one failed."""


@dataclass(frozen=True)
class Stopped:
    """A recipe's file, and how its output stands."""

    recipe: Path
    output: Path
    rows: int
    edits: int
    failures: int


def stopped_run(folder: Path, rows: int) -> Stopped:
    """A run over a manifest of `rows` images with one edit each, of which nine tenths are done, one in a thousand of
    these as a failure. Each write task had a block of rows, as the run's plan says, and left its own parts."""
    recipe = _recipe(folder, rows)
    from pipeline.ask_records import Ask
    from pipeline.ledger import open_run
    from pipeline.listing import prepare_manifest
    from pipeline.operations import pixel_settings, real_operations
    from pipeline.recipe import load_recipe
    from pipeline.storage import open_store

    checked = load_recipe(recipe)
    output = open_store(checked.output)
    manifest = prepare_manifest(checked.input, output)
    store, name = open_run(output, pixel_settings(checked, real_operations().facts(checked)), False)
    Ask(name, manifest.prefix, checked.edits).record(store)
    groups = manifest.groups(rows // _PROCESSES)
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn"), _unsynced) as pool:
        written = list(pool.map(_write, groups, itertools.repeat(recipe), itertools.repeat((name, manifest.prefix))))
    edits, failures = (sum(counts) for counts in zip(*written, strict=True))
    return Stopped(recipe, Path(output.root), rows, edits, failures)


def _recipe(folder: Path, rows: int) -> Path:
    uris = []
    for index in range(rows):
        path = folder / "in" / f"{index // _FOLDER_FILES:05d}" / f"{index:08d}.png"
        if not index % _FOLDER_FILES:
            path.parent.mkdir(parents=True)
        path.touch()  # nothing reads it
        uris.append(str(path))
    pq.write_table(pa.table({"uri": uris}), folder / "manifest.parquet")
    recipe = {
        "input": {"manifest": str(folder / "manifest.parquet")}, "output": str(folder / "out"), "model": "mini-dit",
        "captioner": "mini-vlm", "edits": [{"attribute": "smile", "target": "broad smile", "strengths": [1.0]}],
    }  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def _unsynced() -> None:
    """Nothing here must outlive a power cut, and a million flushes take an hour."""
    os.fsync = lambda _: None  # type: ignore[assignment]


def _write(buckets: Sequence[str], recipe: Path, run: tuple[str, str]) -> tuple[int, int]:
    """The edits and the failures that were written of these buckets."""
    from pipeline.attempts import Attempts
    from pipeline.failure_limit import FailureLimit
    from pipeline.ledger import Ledger
    from pipeline.manifest import open_manifest
    from pipeline.placement import Cluster, plan_placement
    from pipeline.progress import Progress
    from pipeline.recipe import load_recipe
    from pipeline.sink import EditSink, RunFacts
    from pipeline.stages import ReadPending
    from pipeline.storage import open_store
    from pipeline.work import table_of_work

    checked, (name, prefix) = load_recipe(recipe), run
    store = open_store(checked.output)
    manifest = open_manifest(store, prefix)
    plan = plan_placement(checked, Cluster(2), manifest.total, 1)
    read = ReadPending(manifest, Ledger(store, name), checked, False, plan.block_rows)
    sink = EditSink(store, RunFacts(name, "m", "r", "c", "r"), Progress(), FailureLimit(manifest.total), Attempts())
    rows = (row for bucket in buckets for table in read(_item(bucket)) for row in table.to_pylist())
    done = [_done(place, row) for place, row in enumerate(rows) if place % _DONE]
    for start in range(0, len(done), plan.block_rows):
        sink(table_of_work(done[start : start + plan.block_rows]))
    failures = sum(row["error_stage"] is not None for row in done)
    return len(done) - failures, failures


def _item(bucket: str) -> pa.Table:
    return pa.table({"buckets": [[bucket]]})


def _done(place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it leaves the last stage; its image is a text."""
    from pipeline.asked_edits import edits_from_json
    from pipeline.work import BLANK_RESULT, error_on

    if not (place + 1) % _FAILED:
        return {**row, **error_on("load", OSError("cannot identify image file"))}
    (edit,) = edits_from_json(row["edits"])
    made = {
        **BLANK_RESULT, "edit_id": edit.edit_id, "target_prompts": ["a face with a broad smile"],
        "image": row["sample_id"].encode(), "width": 64, "height": 64, "direction_id": row["sample_id"][:16],
        "direction_method": "hsds", "direction_residual": place / 7, "direction_iterations": 3, "evaluations": 90.0,
        "batch": 16, "psnr": 20 + place % 97 / 8, "ssim": 1 - place % 89 / 200,
    }  # fmt: skip
    known = {"source_prompt": "a face", "source_sha256": row["sample_id"], "seed": place}
    return {**row, **known, "seconds_caption": place % 83 / 50, "seconds_edit": place % 79 / 9, "results": [made]}


def parts(output: Path) -> int:
    """Parquet parts of edits and failures."""
    return sum(1 for kind in ("edits", "failures") for _ in _parquet(output / kind))


def _parquet(folder: Path) -> Iterator[Path]:
    return folder.glob("*/*.parquet")
