"""How fast a recipe runs: measured on a few of its images in this process, or read from the rows of earlier work."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from eim_ops.aspect_buckets import Size
from eim_ops.cost import costs
from pipeline import storage
from pipeline.actors import CaptionStage, EditStage
from pipeline.asked_edits import edits_to_json
from pipeline.asked_keys import asked_keys
from pipeline.attempts import Attempts
from pipeline.estimate import Rates, Spread, Workload
from pipeline.fit import Fit
from pipeline.manifest import Manifest
from pipeline.operations import Operations
from pipeline.placement import Plan
from pipeline.progress import Progress
from pipeline.recipe import Recipe, RecipeError
from pipeline.schema import EDITS
from pipeline.stages import LoadRows, ScoreAndEncode
from pipeline.storage import Store, in_threads
from pipeline.work import BLANK, Row, table_of_work

_CALLS = 4
"""Into which a calibration's images are divided; the first warms up and is not counted, where there are several."""
_ROWS, _IMAGES = 1000, 32
"""Of earlier work, that are read."""


@dataclass(frozen=True)
class _Call:
    """What one call of the stages took: seconds of an evaluation, padding included, and of captioning for an edit."""

    evaluation: float
    caption: float
    image_bytes: list[int]


def measured_rates(
    recipe: Recipe, operations: Operations, sizes: tuple[Size, ...], manifest: Manifest, plan: Plan, images: int
) -> Rates:
    """Run all edits of a manifest's first `images` images through a run's own stages, here; nothing is kept.

    Manifests are in the order of a hash, so these are a fair draw. Raises RecipeError where none of them can be
    edited, and ModelError where a model cannot be loaded.
    """
    idle = (Progress(), Attempts())
    load = LoadRows(Fit(sizes, recipe.output_size), recipe.seed, *idle)
    loaded = load(table_of_work(list(_first_rows(recipe, manifest, images)))).to_pylist()
    rows = [row for row in loaded if row["error_stage"] is None]
    if not rows:
        raise _nothing_made(loaded)
    caption = CaptionStage(operations, recipe, plan.caption, *idle)
    edit = EditStage(operations, recipe, plan.edit, *idle)
    each = min(recipe.batch, math.ceil(len(rows) / _CALLS))
    calls = []
    for start in range(0, len(rows), each):
        begun = time.perf_counter()
        captioned = caption(table_of_work(rows[start : start + each]))
        between = time.perf_counter()
        edited = edit(captioned)
        calls.append(_call(recipe, edited.to_pylist(), between - begun, time.perf_counter() - between))
    counted = calls[1:] or calls
    return Rates(
        f"calibrated here on {len(rows)} images",
        Spread.of([call.evaluation for call in counted]),
        Spread.of([call.caption for call in counted]),
        Spread.of([size for call in calls for size in call.image_bytes]),
    )


def _call(recipe: Recipe, rows: list[Row], caption_seconds: float, edit_seconds: float) -> _Call:
    made = [[result for result in row["results"] or () if result["image"] is not None] for row in rows]
    edits = [result for its in made for result in its]
    if not edits:
        raise _nothing_made(rows)
    by_size: defaultdict[tuple[int, int], Workload] = defaultdict(Workload)
    for row, its in zip(rows, made, strict=True):
        targets = len({prompt for result in its for prompt in result["target_prompts"]})
        by_size[row["model_width"], row["model_height"]] += Workload(bool(its), targets, len(its))
    batch, price = min(result["batch"] for result in edits), costs(recipe.method)
    ran = sum(work.padded(batch).evaluations(price) for work in by_size.values())
    scored = ScoreAndEncode(Progress(), Attempts(), recipe.output_size)(table_of_work(rows)).to_pylist()
    sizes = [len(result["image"]) for row in scored for result in row["results"] or () if result["image"] is not None]
    return _Call(edit_seconds / ran, caption_seconds / len(edits), sizes)


def _nothing_made(rows: Sequence[Row]) -> RecipeError:
    parts = [part for row in rows for part in (row, *(row["results"] or ())) if part["error_stage"] is not None]
    why = f"; {parts[0]['error_stage']}: {parts[0]['error_type']}: {parts[0]['error_message']}" if parts else ""
    return RecipeError(f"--calibrate: none of {len(rows)} images could be edited{why}")


def _first_rows(recipe: Recipe, manifest: Manifest, images: int) -> Iterator[Row]:
    """Rows as a run reads them, of an output that holds nothing; those with a problem are left out."""
    for bucket in sorted(manifest.rows):
        asked = asked_keys(manifest.table(bucket), recipe.edits)
        for index, row in enumerate(asked.rows.to_pylist()):
            edits = [asked.edits[edit] for edit in asked.edit[asked.row == index]]
            if row["problem"] is None and edits:
                kept = {name: row[name] for name in ("sample_id", "uri", "version", "source_prompt", "fields")}
                yield {**BLANK, **kept, "edits": edits_to_json(edits)}
                images -= 1
                if not images:
                    return


def recorded_rates(store: Store, fingerprint: str, buckets: Iterable[str]) -> Rates | None:
    """What the rows of earlier work tell, of the first buckets that hold enough of them; None where there are none.

    Their batches' padding is in the seconds and not in the evaluations, so the rate errs to the slow side.
    """
    columns = ["fingerprint", "evaluations", "seconds_edit", "seconds_caption", "image_uri"]
    table = EDITS.empty_table().select(columns)
    for bucket in buckets:
        found = store.read_tables(f"edits/bucket={bucket}", EDITS, columns)
        found = found.filter(pc.and_(pc.equal(found["fingerprint"], fingerprint), pc.greater(found["evaluations"], 0)))
        table = pa.concat_tables([table, found])
        if len(table) >= _ROWS:
            break
    if not len(table):
        return None
    return Rates(
        f"from {len(table)} rows of the output",
        Spread.of(pc.divide(table["seconds_edit"], table["evaluations"]).drop_null().to_numpy()),
        Spread.of(table["seconds_caption"].drop_null().to_numpy()),
        _image_bytes(table["image_uri"].slice(0, _IMAGES).to_pylist()),
    )


def _image_bytes(uris: Sequence[str]) -> Spread | None:
    """None where a reader may have been overtaken by a compaction, or images are gone."""
    found = in_threads(lambda uri: storage.stat(uri).size if storage.exists(uri) else None, uris)
    sizes = [size for size in found if size is not None]
    return Spread.of(sizes) if sizes else None
