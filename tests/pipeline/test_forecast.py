"""The forecast against a run's own stages with a small real model, and against what an output holds."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from eim_ops.aspect_buckets import Size
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.editor import Editor
from eim_ops.faces.render import render
from eim_ops.mini.face_set import draw_faces
from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.estimate import Spread
from pipeline.fit import Fit
from pipeline.forecast import forecast
from pipeline.ledger import Ledger
from pipeline.operations import ModelFacts, Operations
from pipeline.placement import Cluster, plan_placement
from pipeline.progress import Progress
from pipeline.recipe import Recipe, RecipeError
from pipeline.schema import EDITS as EDITS_SCHEMA
from pipeline.schema import table_of
from pipeline.stages import LoadRows, ReadPending
from tests.eim_ops.conftest import tiny_sd3
from tests.fakes import fake_operations
from tests.pipeline.builders import make_recipe, start_job

BATCH, CLUSTER = 4, Cluster(2)
EDITS = [
    {"attribute": "smile", "target": "broad smile", "strengths": [0.5, 1]},
    {"attribute": ["smile", "hair"], "target": ["broad smile", "red hair"], "strengths": [1]},
]


@pytest.fixture(scope="module")
def model() -> Sd3Backbone:
    return tiny_sd3()


def operations_of(model: Sd3Backbone) -> Operations:
    return Operations(
        lambda recipe, device: None,
        lambda recipe, device: Editor(model, recipe.method),
        lambda recipe: ModelFacts("0", "manifest", (Size(64, 64),)),
    )


def six_faces(folder: Path, **method: Any) -> Recipe:
    """Six faces; the third asks for fewer edits, and the sixth is not there."""
    prompts = {"smile": "a portrait with broad smile", "hair": "a portrait with red hair"}
    for index, face in enumerate(draw_faces(7, 5)):
        Image.fromarray(render(face)).save(folder / f"{index}.png")
    lines: list[dict[str, Any]] = [
        {"uri": f"{index}.png", "source_prompt": "a portrait with deep frown", "target_prompts": prompts}
        for index in range(6)
    ]
    lines[2]["edits"] = EDITS[:1]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return make_recipe(
        input={"manifest": str(folder / "m.jsonl")}, output=str(folder / "out"), captioner="manifest",
        edits=EDITS, batch=BATCH, method={"steps": 2, "draws": 1, **method},
    )  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"trajectory": "fixed_point", "image_half": "none", "guidance": 1},
        {"trajectory": "euler", "free_guidance": 1},
        {"trajectory": "midpoint", "image_half": "hsds", "iterations": 1, "guidance": 1, "free_guidance": 1},
    ],
    ids=str,
)
def test_evaluations_are_what_a_runs_rows_report(model: Sd3Backbone, tmp_path: Path, method: dict) -> None:
    recipe = six_faces(tmp_path, **method)
    told = forecast(recipe, operations_of(model), CLUSTER)
    assert (told.account.asked, told.account.left, told.account.work.edits) == (17, 17, 14)
    assert not (tmp_path / "out").exists()

    job = start_job(str(tmp_path), 0, input={"manifest": str(tmp_path / "m.jsonl")}, output=str(tmp_path / "out"),
                    captioner="manifest", edits=EDITS, batch=BATCH, method=recipe.method.__dict__)  # fmt: skip
    idle, plan = (Progress(), Attempts()), plan_placement(recipe, CLUSTER, 6, 3)
    read = ReadPending(job.manifest, Ledger(job.store, job.fingerprint), recipe, False, 64)
    (rows,) = read(pa.table({"buckets": [sorted(job.manifest.rows)]}))
    caption = CaptionStage(operations_of(model), recipe, plan.caption, *idle)
    edit, load = EditStage(operations_of(model), recipe, plan.edit, *idle), LoadRows(Fit((Size(64, 64),)), 0, *idle)
    good = pa.Table.from_pylist([row for row in load(rows).to_pylist() if row["error_stage"] is None], rows.schema)
    before = model.evaluations
    edited = [edit(caption(good.slice(start, BATCH))).to_pylist() for start in range(0, len(good), BATCH)]
    reported = sum(result["evaluations"] for call in edited for row in call for result in row["results"])
    assert reported == pytest.approx(told.evaluations)
    ran = model.evaluations - before
    assert told.evaluations <= told.with_padding <= ran
    assert ran - told.with_padding < BATCH * (told.costs.identify + told.costs.decode)


def test_calibration_measures_and_leaves_nothing(model: Sd3Backbone, tmp_path: Path) -> None:
    recipe = six_faces(tmp_path)
    told = forecast(recipe, operations_of(model), CLUSTER, calibrate=5)
    assert told.rates is not None
    assert told.time is not None
    assert told.rates.source == "calibrated here on 5 images"
    assert 0 < told.rates.evaluation.low <= told.rates.evaluation.high
    assert told.storage.image_bytes is not None
    assert told.storage.raw_bytes is not None
    assert 14 * 1000 < told.storage.image_bytes.middle < told.storage.raw_bytes
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_edited_calibrate_nothing(tmp_path: Path) -> None:
    recipe = start_job(str(tmp_path), 3).recipe  # whose images are no images
    with pytest.raises(RecipeError, match="none of 2 images could be edited; load: "):
        forecast(recipe, fake_operations(), CLUSTER, calibrate=2)


def test_what_is_done_is_not_priced_and_its_rows_tell_the_time(root: str) -> None:
    job = start_job(root, 4, edits=[{"attribute": "smile", "target": "broad smile", "strengths": [1, 2]}])
    job.write(job.samples[:1])
    job.write(job.samples[1:2], error="broken")
    told = forecast(job.recipe, fake_operations(), CLUSTER)
    assert (told.account.edits, told.account.failures, told.account.left) == (2, 2, 4)
    assert (told.account.work.images, told.account.work.targets, told.account.work.edits) == (2, 2, 4)
    assert told.rates is None  # these rows tell no evaluations
    assert told.time is None
    assert not told.other_settings
    changed = forecast(job.recipe, fake_operations(revision="fake-2"), CLUSTER)
    assert (changed.account.left, changed.other_settings) == (8, True)


def test_rows_of_earlier_work_tell_the_time(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), 4)
    sample = job.samples[0]
    job.write([sample])
    (before,) = Ledger(job.store, job.fingerprint).read().edits.to_pylist()
    row = {**before, "evaluations": 20.0, "seconds_edit": 2.0, "seconds_caption": 0.5}
    for key in job.store.keys("edits"):
        job.store.delete(key)
    bucket = sample["sample_id"][:2]
    job.store.write_table(f"edits/bucket={bucket}/part-1.parquet", table_of([row], EDITS_SCHEMA))
    told = forecast(job.recipe, fake_operations(), CLUSTER)
    assert told.rates is not None
    assert told.rates.source == "from 1 rows of the output"
    assert (told.rates.evaluation, told.rates.caption) == (Spread(0.1, 0.1, 0.1), Spread(0.5, 0.5, 0.5))
    assert told.rates.image_bytes is not None
    assert told.time is not None
    assert told.time.seconds.middle == max(1.5, 0.1 * told.with_padding)


def test_pools_are_those_of_the_cluster_that_is_given(tmp_path: Path) -> None:
    recipe = start_job(str(tmp_path), 3).recipe
    told = forecast(recipe, fake_operations(), Cluster(32, 8))
    assert told.plan == plan_placement(recipe, Cluster(32, 8), 3, 1)
