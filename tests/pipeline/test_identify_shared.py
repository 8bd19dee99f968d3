"""Shared directions stage after stage in this process, with a tiny model."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.decode import encode_png
from pipeline.identify_shared import SampleStage, sample_rows, store_averages, wanted_directions
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe, RecipeError
from pipeline.shared_directions import SharedDirections
from pipeline.storage import open_store
from pipeline.work import Row, table_of_work
from tests.pipeline.builders import SMILE, asked, make_recipe, start_job, work_row
from tests.tiny import tiny_operations

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")
IDLE = (POOL, Progress(), Attempts())
REQUEST, OTHER = "change to broad smile", "red hair"
BROAD = ("smile", "broad smile", REQUEST)


def recipe(*requests: str) -> Recipe:
    edits = [{**SMILE, "request": request} for request in requests] or [SMILE]
    return make_recipe(model="tiny", edits=edits, batch=2, method={"steps": 2, "draws": 1}, direction="shared")


def captioned(seed: int, *requests: str) -> Row:
    pixels = np.random.default_rng(seed).integers(50, 150, (64, 64, 3), np.uint8)
    edits = [asked(request, request=request) for request in requests or (REQUEST,)]
    row = work_row(*edits, image=encode_png(pixels), source_sha256=str(seed), seed=seed, sample_id=f"{seed:02x}")
    (done,) = CaptionStage(tiny_operations(), recipe(), *IDLE)(table_of_work([row])).to_pylist()
    return done


def shared_over(rows: list[Row], folder: Path, *requests: str) -> SharedDirections:
    its = recipe(*requests)
    store = open_store(str(folder))
    sample = SampleStage(tiny_operations(), its, *IDLE)(table_of_work(rows)).to_pylist()
    wanted = wanted_directions(its.edits)
    store_averages(sample, wanted, SharedDirections(store, {}), its, "fake-1")
    return SharedDirections.read(store, list(wanted))


def test_edits_take_the_mean_of_the_sample_and_name_it(tmp_path: Path) -> None:
    rows = [captioned(seed) for seed in range(3)]
    shared = shared_over(rows[:2], tmp_path)
    (file,) = {key for key in open_store(str(tmp_path)).keys("directions") if key.endswith(".safetensors")}
    assert file == f"directions/{shared.ids[BROAD]}/direction.safetensors"

    stage = EditStage(tiny_operations(), recipe(), *IDLE, shared=shared)
    edited = stage(table_of_work(rows)).to_pylist()
    results = [row["results"][0] for row in edited]
    assert {(its["direction_id"], its["direction_method"]) for its in results} == {(shared.ids[BROAD], "shared")}
    own = EditStage(tiny_operations(), recipe(), *IDLE)(table_of_work(rows)).to_pylist()
    assert results[2]["image"] != own[2]["results"][0]["image"]
    assert results[2]["evaluations"] < own[2]["results"][0]["evaluations"], "nothing is identified for it"
    assert shared_over(rows[:2], tmp_path).ids == shared.ids, "the same images give the same direction"


def test_each_request_for_a_target_has_a_direction_of_its_own(tmp_path: Path) -> None:
    rows = [captioned(seed, REQUEST, OTHER) for seed in range(2)]
    shared = shared_over(rows, tmp_path, REQUEST, OTHER)
    assert len(set(shared.ids.values())) == 2
    edited = EditStage(tiny_operations(), recipe(), *IDLE, shared=shared)(table_of_work(rows)).to_pylist()
    named = {its["edit_id"]: its["direction_id"] for its in edited[0]["results"]}
    assert named == {REQUEST: shared.ids[BROAD], OTHER: shared.ids[*BROAD[:2], OTHER]}


def test_another_request_finds_no_direction_of_the_same_target(tmp_path: Path) -> None:
    rows = [captioned(seed) for seed in range(2)]
    shared = shared_over(rows, tmp_path)
    assert not SharedDirections.read(shared.store, [(*BROAD[:2], OTHER)]).ids
    stage = EditStage(tiny_operations(), recipe(), *IDLE, shared=shared)
    (row,) = stage(table_of_work([captioned(2, OTHER)])).to_pylist()
    assert "no shared direction for smile -> broad smile, request 'red hair'" in row["results"][0]["error_message"]


def test_a_sample_of_which_nothing_came_is_refused_with_the_first_error(tmp_path: Path) -> None:
    broken = {**captioned(0), "error_stage": "load", "error_type": "E", "error_message": "gone"}
    with pytest.raises(RecipeError, match=r"sample's 1 images gave a direction for smile -> broad smile \(E: gone\)"):
        shared_over([broken], tmp_path)


def test_an_image_that_shows_the_target_already_has_no_part_in_the_mean(tmp_path: Path) -> None:
    rows, there = [captioned(seed) for seed in range(2)], captioned(2)
    there["results"] = [{**its, "target_prompts": [there["source_prompt"]]} for its in there["results"]]
    assert shared_over([*rows, there], tmp_path).ids == shared_over(rows, tmp_path / "without").ids
    with pytest.raises(RecipeError, match=r"none of the sample's 1 images gave a direction.*show the target already"):
        shared_over([there], tmp_path / "alone")


def test_the_sample_is_the_smallest_sample_ids(tmp_path: Path) -> None:
    job = start_job(str(tmp_path), images=7)
    rows = sample_rows(job.manifest, 3, wanted_directions(job.recipe.edits))
    assert [row["sample_id"] for row in rows] == sorted(row["sample_id"] for row in job.samples)[:3]
