"""Encode, identify and edit one after another in this process, with fake operations: errors stay with their own."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from pipeline.actors import CaptionStage, EditStage
from pipeline.asked_edits import AskedEdit
from pipeline.attempts import Attempts
from pipeline.decode import encode_png
from pipeline.model_loading import ModelError
from pipeline.model_stage import ModelStage
from pipeline.operations import Editor, Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.split_stages import EncodeStage, IdentifyStage, ManipulateStage
from pipeline.storage import open_store
from pipeline.work import Row, table_of_work
from tests.fakes import FakeEditor, fake_operations
from tests.pipeline.builders import asked, make_recipe, work_row
from tests.tiny import tiny_operations

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")
SPLIT: tuple[type[ModelStage], ...] = (EncodeStage, IdentifyStage, ManipulateStage)


def loaded(shade: int, *edits: AskedEdit, **changes: object) -> Row:
    image = encode_png(np.full((32, 32, 3), shade, np.uint8))
    return work_row(*edits, image=image, source_sha256="s", seed=shade, **{"sample_id": f"{shade:02x}", **changes})


def run(
    rows: Sequence[Row],
    stages: Sequence[type[ModelStage]] = SPLIT,
    make: Callable[[Recipe, str], Editor] | None = None,
    attempts: Attempts | None = None,
    **recipe: object,
) -> list[Row]:
    fakes, checked, marked = fake_operations(), make_recipe(**recipe), attempts or Attempts()
    table = CaptionStage(fakes, checked, POOL, Progress(), Attempts())(table_of_work(rows))
    operations = Operations(fakes.make_captioner, make or fakes.make_editor, fakes.facts)
    for stage in stages:
        table = stage(operations, checked, POOL, Progress(), marked)(table)
    return table.to_pylist()


def outcomes(row: Row) -> list[tuple[str | None, str | None]]:
    return [(result["error_stage"], result["error_type"]) for result in row["results"]]


def test_split_makes_the_rows_of_fused_and_carries_nothing_further() -> None:
    rows = [loaded(20, asked("a"), asked("b", 14.0)), loaded(30, asked("c", 13.0), asked("d"))]
    split, fused = run(rows), run(rows, [EditStage])
    assert [outcomes(row) for row in split] == [
        [(None, None), ("edit", "NotFinite")],
        [("edit", "RuntimeError"), (None, None)],
    ]
    for one, other in zip(split, fused, strict=True):
        assert one["results"] == other["results"]
        assert (one["encoded"], one["halves"]) == (None, None)


class Faulty(FakeEditor):
    """Cannot encode a white image, nor identify a frown."""

    def encode(self, images: Sequence[np.ndarray], *others: Any) -> list[bytes]:
        if any(image.min() == 255 for image in images):
            raise RuntimeError("cannot encode")
        return super().encode(images, *others)

    def identify(self, encoded: Sequence[bytes], prompts: Any, targets: Any, *others: Any) -> list[bytes]:
        if any("frown" in prompt for _, prompt in targets):
            raise RuntimeError("cannot identify")
        return super().identify(encoded, prompts, targets, *others)


def test_an_error_of_a_stage_stays_with_its_image_or_its_target() -> None:
    rows = [loaded(255), loaded(20, asked("a"), asked("b", request="frown"), asked("c", 2.0)), loaded(30)]
    white, mixed, good = run(rows, make=lambda recipe, device: Faulty())
    assert (white["error_stage"], white["error_type"]) == ("encode", "RuntimeError")
    assert outcomes(mixed) == [(None, None), ("identify", "RuntimeError"), (None, None)]
    assert outcomes(good) == [(None, None)]


def test_a_prompt_that_the_model_refuses_fails_in_the_first_stage_that_needs_it() -> None:
    rows = [
        loaded(10, source_prompt="an overlong face"),
        loaded(20, asked("a"), asked("b", request="overlong")),
        loaded(30),
    ]
    source, target, good = run(rows)
    assert (source["error_stage"], source["error_type"]) == ("encode", "ValueError")
    assert outcomes(target) == [(None, None), ("identify", "ValueError")]
    assert outcomes(good) == [(None, None)]


def test_what_identification_computes_for_copies_is_not_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of one image, and of each of its three targets, in batches of two."""
    told = {}
    monkeypatch.setattr(Progress, "evaluated", lambda self, stage, useful, ran: told.update({stage: (useful, ran)}))
    prompts = ("deep frown", "broad smile", "red hair")
    edits = [asked(str(n), given=f"a portrait with {prompt}") for n, prompt in enumerate(prompts)]
    image = encode_png(np.zeros((64, 64, 3), np.uint8))
    table = table_of_work([{**loaded(0, *edits), "image": image, "source_prompt": "a portrait"}])
    recipe = make_recipe(model="tiny", batch=2, method={"steps": 1, "draws": 2})
    for stage in (CaptionStage, EncodeStage, IdentifyStage):
        table = stage(tiny_operations(), recipe, POOL, Progress(), Attempts())(table)
    assert told["identify"] == (2 * (1 + 3), 2 * (2 + 4))


class Small(FakeEditor):
    """Has memory for four rows when it encodes."""

    def encode(self, images: Sequence[np.ndarray], *others: Any) -> list[bytes]:
        if others[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(images, *others)


def test_out_of_memory_in_one_stage_halves_its_batch_and_the_rows_say_so() -> None:
    rows = run([loaded(20), loaded(30)], make=lambda recipe, device: Small(), batch=16)
    assert [row["results"][0]["batch"] for row in rows] == [4, 4]


@pytest.mark.parametrize("stage", SPLIT)
def test_a_model_that_cannot_be_loaded_ends_the_job_in_every_stage(stage: type[ModelStage]) -> None:
    def fail(recipe: Recipe, device: str) -> NoReturn:
        raise OSError("no file named x")

    with pytest.raises(ModelError, match="'fake' cannot be loaded on cpu"):
        run([loaded(20)], [stage], fail)


def test_a_stage_marks_the_rows_that_it_works_on(tmp_path: object) -> None:
    store = open_store(str(tmp_path))
    seen: dict[str, list[str]] = {}

    class Watching(FakeEditor):
        def encode(self, images: Sequence[np.ndarray], *others: Any) -> list[bytes]:
            seen["encode"] = store.keys("attempts")
            return super().encode(images, *others)

    run([loaded(20), loaded(30)], make=lambda recipe, device: Watching(), attempts=Attempts(store, 3, "r"))
    (marker,) = seen["encode"]
    assert marker.startswith("attempts/encode/rows-")
    assert store.keys("attempts") == []
