"""Stages over images of several sizes with a small real model: a model call has one size, and a row its own pixels."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from eim_ops.aspect_buckets import aspect_buckets
from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.fit import Fit
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.split_stages import EncodeStage, IdentifyStage, ManipulateStage
from pipeline.stages import LoadRows
from pipeline.storage import stat
from pipeline.work import Row, table_of_work
from tests.pipeline.builders import asked, make_recipe, work_row
from tests.tiny import tiny_operations

POOL, IDLE = PoolPlan(1, 1.0, 0.0, 1, "cpu"), (Progress(), Attempts())
SIZES = [(90, 60), (60, 90), (80, 80), (70, 48), (50, 51), (97, 61), (64, 40)]
RECIPE = make_recipe(method={"steps": 2, "draws": 1, "image_half": "hsds", "iterations": 1}, batch=2)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    rows, folder = [], tmp_path_factory.mktemp("in")
    for index, size in enumerate(SIZES):
        path = str(folder / f"{index}.png")
        coarse = Image.fromarray(np.random.default_rng(index).integers(40, 200, (5, 5, 3), np.uint8))
        coarse.resize(size).save(path)
        edits = (asked("a", request="smile"), asked("b", 0.5, request="smile"))
        rows.append(work_row(*edits, sample_id=str(index), uri=path, version=stat(path).version))
    loaded = LoadRows(Fit(aspect_buckets(48, 8, 64)), 0, *IDLE)(table_of_work(rows))
    return CaptionStage(tiny_operations(), RECIPE, POOL, *IDLE)(loaded).to_pylist()


def pixels(rows: Sequence[Row]) -> dict[tuple[str, str], bytes]:
    return {(row["sample_id"], result["edit_id"]): result["image"] for row in rows for result in row["results"]}


@pytest.fixture(scope="module")
def together(captioned: list[Row]) -> list[Row]:
    return EditStage(tiny_operations(), RECIPE, POOL, *IDLE)(table_of_work(captioned)).to_pylist()


def test_pixels_do_not_depend_on_which_images_are_neighbours(captioned: list[Row], together: list[Row]) -> None:
    stage = EditStage(tiny_operations(), RECIPE, POOL, *IDLE)
    units = [captioned[start::3] for start in (2, 0, 1)]
    apart = [row for unit in units for row in stage(table_of_work(unit[::-1])).to_pylist()]
    assert len(pixels(together)) == 2 * len(SIZES)
    assert pixels(apart) == pixels(together)


def test_split_stages_give_the_same_pixels(captioned: list[Row], together: list[Row]) -> None:
    table = table_of_work(captioned)
    for stage in (EncodeStage, IdentifyStage, ManipulateStage):
        table = stage(tiny_operations(), RECIPE, POOL, *IDLE)(table)
    assert pixels(table.to_pylist()) == pixels(together)
