"""Stages one after another in this process, with fake operations; every error stays with its own row or edit."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from eim_ops.aspect_buckets import Size
from eim_ops.task import EditedImage, EditTask
from pipeline.actors import CaptionStage, EditStage
from pipeline.asked_edits import AskedEdit
from pipeline.attempts import Attempts
from pipeline.decode import encode_png
from pipeline.fit import Fit
from pipeline.identity import noise_seed, sha256_bytes
from pipeline.model_loading import ModelError
from pipeline.operations import Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.stages import LoadRows, ScoreAndEncode
from pipeline.storage import stat
from pipeline.work import Row, table_of_work
from tests.conftest import PngMaker
from tests.fakes import FakeCaptioner, FakeEditor, fake_operations
from tests.pipeline.builders import asked, make_recipe, square, work_row

ROWS = {"manifest": "rows.jsonl"}

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")
SILENT = Progress()
UNMARKED = Attempts()


def loaded(seed: int, *edits: AskedEdit, **changes: object) -> Row:
    pixels = np.random.default_rng(seed).integers(50, 150, (32, 32, 3), np.uint8)
    return work_row(*edits, image=encode_png(pixels), source_sha256="s", seed=seed, **changes)


def caption(rows: Sequence[Row], operations: Operations | None = None, **recipe: object) -> list[Row]:
    stage = CaptionStage(operations or fake_operations(), make_recipe(**recipe), POOL, SILENT, UNMARKED)
    return stage(table_of_work(rows)).to_pylist()


def edit(rows: Sequence[Row]) -> list[Row]:
    stage = EditStage(fake_operations(), make_recipe(), POOL, SILENT, UNMARKED)
    return ScoreAndEncode(SILENT, UNMARKED)(stage(table_of_work(rows))).to_pylist()


def outcome(row: Row) -> list[str | None]:
    return [result["error_type"] for result in row["results"]]


def test_load_fills_the_image_its_hash_and_its_seed(tmp_path: Path, png: PngMaker) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    (row,) = LoadRows(square(32), 7, SILENT, UNMARKED)(
        table_of_work([work_row(uri=str(path), version=stat(str(path)).version)])
    ).to_pylist()
    assert row["error_stage"] is None
    assert row["source_sha256"] == sha256_bytes(png(0))
    assert row["seed"] == noise_seed(7, row["source_sha256"])


def test_load_writes_errors_on_their_rows(tmp_path: Path, png: PngMaker) -> None:
    changed, broken, gone = (str(tmp_path / name) for name in ("changed.png", "broken.png", "gone.png"))
    Path(changed).write_bytes(png(0))
    Path(broken).write_bytes(b"nothing")
    rows = [
        work_row(uri=changed, version="older"),
        work_row(uri=broken, version=stat(broken).version),
        work_row(uri=gone),
        work_row(uri=gone, error_stage="prepare", error_type="E", error_message="m"),
    ]
    done = LoadRows(square(32), 0, SILENT, UNMARKED)(table_of_work(rows)).to_pylist()
    assert [row["error_type"] for row in done] == ["VersionChanged", "UnidentifiedImageError", "FileNotFoundError", "E"]
    assert [row["error_stage"] for row in done] == ["load", "load", "load", "prepare"]


def test_captions_and_targets_are_written() -> None:
    (row,) = caption([loaded(0, asked(request="smile"))])
    assert row["source_prompt"].startswith("a picture of ")
    assert row["results"][0]["target_prompts"] == [f"{row['source_prompt']}, smile"]


def test_given_prompts_are_kept() -> None:
    (row,) = caption([loaded(0, asked(given="a smile"), source_prompt="a face")], input=ROWS, captioner="manifest")
    assert (row["source_prompt"], row["results"][0]["target_prompts"]) == ("a face", ["a smile"])


def test_a_missing_prompt_is_an_error_of_its_row_or_of_its_edit() -> None:
    rows = [loaded(0), loaded(1, asked(), asked("f", given="a smile"), source_prompt="a face")]
    bare, prompted = caption(rows, input=ROWS, captioner="manifest")
    assert (bare["error_stage"], bare["error_type"]) == ("caption", "ValueError")
    assert prompted["error_stage"] is None
    assert outcome(prompted) == ["ValueError", None]


def test_one_impossible_request_fails_alone() -> None:
    rows = caption([loaded(0, asked("a"), asked("b", request="impossible")), loaded(1, asked("c", request="frown"))])
    assert [outcome(row) for row in rows] == [[None, "ValueError"], [None]]


class _OneBadImage(FakeCaptioner):
    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        if any(np.asarray(image)[0, 0, 0] == 255 for image in images):
            raise RuntimeError("cannot see")
        return super().describe(images)


def test_one_image_that_cannot_be_captioned_fails_alone() -> None:
    white = work_row(image=encode_png(np.full((32, 32, 3), 255, np.uint8)), seed=0)
    fakes = fake_operations()
    operations = Operations(lambda recipe, device: _OneBadImage(), fakes.make_editor, fakes.facts)
    assert [row["error_type"] for row in caption([loaded(0), white, loaded(1)], operations)] == [
        None,
        "RuntimeError",
        None,
    ]


def test_edits_become_scored_png_files() -> None:
    (row,) = edit(caption([loaded(0, asked("a", 1.0), asked("b", 2.0))]))
    weak, strong = row["results"]
    assert (weak["error_type"], weak["width"], weak["height"]) == (None, 32, 32)
    assert weak["psnr"] > strong["psnr"] > 10
    assert 0 < strong["ssim"] <= 1
    assert weak["image"].startswith(b"\x89PNG")
    assert row["image"] is None


def test_one_edit_that_raises_fails_alone_and_one_that_is_not_finite_too() -> None:
    rows = [
        loaded(0, asked("a", 1.0), asked("b", 13.0), asked("c", 2.0)),
        loaded(1, asked("a", 13.0)),
        loaded(2, asked("a", 14.0), asked("b", 1.0)),
        loaded(3, asked("a", 1.0), error_stage="load", error_type="E", error_message="m"),
    ]
    done = edit(caption(rows))
    outcomes = [outcome(row) for row in done[:3]]
    assert outcomes == [[None, "RuntimeError", None], ["RuntimeError"], ["NotFinite", None]]
    assert done[3]["results"] is None


def edit_tallied(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """The rows after editing, and how many images each call of the editor had."""
    calls = []

    class Tallying(FakeEditor):
        def __call__(self, images: Sequence[np.ndarray], *others: Any, **named: Any) -> Iterator[EditedImage]:
            calls.append(len(images))
            yield from super().__call__(images, *others, **named)

    operations = replace(fake_operations(), make_editor=lambda recipe, device: Tallying())
    stage = EditStage(operations, make_recipe(batch=16), POOL, SILENT, UNMARKED)
    return stage(table_of_work(rows)).to_pylist(), calls


def test_a_prompt_that_the_model_refuses_costs_its_batch_no_call() -> None:
    rows = [
        loaded(0, asked("a", request="overlong"), asked("b")),
        loaded(1, asked("a"), source_prompt="an overlong face"),
        *(loaded(seed, asked("a")) for seed in range(2, 16)),
    ]
    done, calls = edit_tallied(caption(rows))
    assert [outcome(row) for row in done] == [["ValueError", None], ["ValueError"], *[[None]] * 14]
    assert {(its["error_stage"], its["error_message"]) for its in (done[0]["results"][0], done[1]["results"][0])} == {
        ("edit", "the prompt is too long")
    }
    assert calls == [15]


def test_one_bad_edit_is_found_by_halves() -> None:
    done, calls = edit_tallied(caption([loaded(0, asked("a", 13.0)), *(loaded(seed) for seed in range(1, 16))]))
    assert [outcome(row) for row in done] == [["RuntimeError"], *[[None]] * 15]
    assert sorted(calls) == [1, 1, 2, 2, 4, 4, 8, 8, 16]


def test_one_bad_edit_of_an_image_is_found_by_halves_of_its_edits() -> None:
    edits = [asked(str(index), 13.0 if index == 5 else 1.0) for index in range(16)]
    (row,), calls = edit_tallied(caption([loaded(0, *edits)]))
    assert [index for index, error in enumerate(outcome(row)) if error] == [5]
    assert len(calls) <= 1 + 2 * 4, "what came before the error is kept, so it may be fewer"


def test_an_empty_block_passes_every_stage() -> None:
    empty: pa.Table = table_of_work([])
    stage = CaptionStage(fake_operations(), make_recipe(), POOL, SILENT, UNMARKED)
    editor = EditStage(fake_operations(), make_recipe(), POOL, SILENT, UNMARKED)
    assert len(ScoreAndEncode(SILENT, UNMARKED)(editor(stage(LoadRows(square(32), 0, SILENT, UNMARKED)(empty))))) == 0


@pytest.mark.parametrize("size", [16, 48])
def test_load_brings_images_to_the_models_size(tmp_path: Path, png: PngMaker, size: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    table = table_of_work([work_row(uri=str(path), version=stat(str(path)).version)])
    (row,) = LoadRows(square(size), 0, SILENT, UNMARKED)(table).to_pylist()
    from pipeline.work import source_image

    assert source_image(row).size == (size, size)


def oblong(tmp_path: Path, *sizes: tuple[int, int], fit: Fit) -> list[Row]:
    """Images of these sizes, loaded."""
    rows = []
    for index, size in enumerate(sizes):
        path = tmp_path / f"{index}.png"
        Image.effect_noise(size, 40).convert("RGB").save(path)
        edits = (asked("a"), asked("b", 2.0))
        rows.append(work_row(*edits, sample_id=f"{index}", uri=str(path), version=stat(str(path)).version))
    return LoadRows(fit, 0, SILENT, UNMARKED)(table_of_work(rows)).to_pylist()


BUCKETS = (Size(24, 48), Size(32, 32), Size(48, 24))


def test_images_of_several_sizes_are_edited_in_calls_of_one(tmp_path: Path) -> None:
    rows = oblong(tmp_path, (200, 100), (100, 200), (99, 100), (180, 90), fit=Fit(BUCKETS))
    done = edit(caption(rows))  # the fake editor takes images of one size alone
    assert [outcome(row) for row in done] == [[None, None]] * 4
    sizes = [{(result["width"], result["height"]) for result in row["results"]} for row in done]
    assert sizes == [{(48, 24)}, {(24, 48)}, {(32, 32)}, {(48, 24)}]
    assert [(row["source_width"], row["source_height"]) for row in done[:2]] == [(200, 100), (100, 200)]


def test_an_edit_comes_back_at_its_sources_size_and_is_scored_at_the_models(tmp_path: Path) -> None:
    sizes = [(200, 100), (95, 200), (99, 100)]
    rows = oblong(tmp_path, *sizes, fit=Fit(BUCKETS, "source"))
    edited = EditStage(fake_operations(), make_recipe(), POOL, SILENT, UNMARKED)(table_of_work(caption(rows)))
    as_edited = ScoreAndEncode(SILENT, UNMARKED)(edited).to_pylist()
    as_source = ScoreAndEncode(SILENT, UNMARKED, "source")(edited).to_pylist()
    for size, model, source in zip(sizes, as_edited, as_source, strict=True):
        for ours, result in zip(model["results"], source["results"], strict=True):
            assert Image.open(io.BytesIO(result["image"])).size == (result["width"], result["height"]) == size
            assert (result["psnr"], result["ssim"]) == (ours["psnr"], ours["ssim"])


def test_an_image_that_no_size_fits_whole_is_an_error_of_its_row(tmp_path: Path) -> None:
    wide, good = oblong(tmp_path, (400, 100), (200, 100), fit=Fit(BUCKETS, "source"))
    assert (wide["error_stage"], wide["error_type"]) == ("load", "AspectRatioError")
    assert good["error_stage"] is None


class _SmallDevice(FakeEditor):
    """Has memory for `holds` rows; for none of an image that is white."""

    holds = 4

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int],
        batch: int,
    ) -> Iterator[EditedImage]:
        if batch > self.holds or any(image.min() == 255 for image in images):
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from super().__call__(images, source_prompts, tasks, seeds, batch)


def test_out_of_memory_halves_the_batch_and_the_rows_say_so() -> None:
    fakes = fake_operations()
    operations = Operations(fakes.make_captioner, lambda recipe, device: _SmallDevice(), fakes.facts)
    stage = EditStage(operations, make_recipe(batch=16), POOL, SILENT, UNMARKED)
    white = work_row(asked("a"), image=encode_png(np.full((32, 32, 3), 255, np.uint8)), seed=0)
    first = stage(table_of_work(caption([loaded(0, asked("a"), asked("b"))]))).to_pylist()
    second = stage(table_of_work(caption([white, loaded(1, asked("a"))]))).to_pylist()
    assert [result["batch"] for result in first[0]["results"]] == [4, 4]
    assert outcome(second[0]) == ["OutOfMemoryError"]
    assert (outcome(second[1]), second[1]["results"][0]["batch"]) == ([None], 2)  # kept, and never below two


class _SmallCaptioner(FakeCaptioner):
    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().describe(images)


def test_out_of_memory_in_captioning_halves_its_batch_down_to_one() -> None:
    fakes = fake_operations()
    operations = Operations(lambda recipe, device: _SmallCaptioner(), fakes.make_editor, fakes.facts)
    rows = caption([loaded(index) for index in range(5)], operations, batch=4)
    assert [row["error_type"] for row in rows] == [None] * 5


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (OSError("no file named x"), "files"),
        (torch.OutOfMemoryError("full"), "memory"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "nvidia-smi"),
        (RuntimeError("No CUDA GPUs are available"), "nvidia-smi"),
        (KeyError("vae"), "family"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_with_its_name_and_the_mend(error: Exception, mend: str) -> None:
    def fail(recipe: Recipe, device: str) -> NoReturn:
        raise error

    fakes = fake_operations()
    operations = Operations(fakes.make_captioner, fail, fakes.facts)
    stage = EditStage(operations, make_recipe(model="some/model"), POOL, SILENT, UNMARKED)
    with pytest.raises(ModelError, match=f"(?s)'some/model' cannot be loaded on cpu.*{type(error).__name__}.*{mend}"):
        stage(table_of_work([]))


def test_an_actor_loads_with_one_torch_thread_and_computes_with_the_plans() -> None:
    before, seen = torch.get_num_threads(), []

    def make(recipe: Recipe, device: str) -> FakeCaptioner:
        seen.append(torch.get_num_threads())
        return FakeCaptioner()

    operations = replace(fake_operations(), make_captioner=make)
    try:
        stage = CaptionStage(operations, make_recipe(), replace(POOL, threads=2), SILENT, UNMARKED)
        stage(table_of_work([]))
        assert (*seen, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)
