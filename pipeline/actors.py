"""The stages that hold a model, one actor pool each: captioning, and the fused encode, identify, manipulate.

As in `stages.py`, an error that Python can catch stays on its row. Where memory runs out, an actor halves its batch and
keeps the smaller one: all its calls have one shape, so the next would end alike, after the same time.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from eim_ops.captioning.base import Refused
from pipeline.asked import edits_from_json
from pipeline.attempts import Attempts
from pipeline.caption_cache import CaptionCache
from pipeline.captioner_spec import captioner_name
from pipeline.captions import CaptionWriter
from pipeline.device import free_memory, is_out_of_memory, leave_if_lost
from pipeline.loading import load_model, usable
from pipeline.operations import Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.work import Row, error_on, source_image, table_of_work

if TYPE_CHECKING:
    from eim_ops.edit import EditedImage, EditTask

    _ImageWork = tuple[dict[str, Any], list[tuple[dict[str, Any], EditTask]]]
    """An image's row with its results to be filled, each with its task."""

_T = TypeVar("_T")
_R = TypeVar("_R")


_SMALLEST_BATCH = 2
"""Of an editor's model calls: kernels for a single row differ."""


def _set_threads(pool: PoolPlan) -> None:
    """Ray gives workers OMP_NUM_THREADS=1; the plan knows better."""
    import torch

    torch.set_num_threads(pool.threads)


class CaptionStage:
    """An actor: fills source_prompt, and a target prompt (or its error) in `results` for each asked edit."""

    def __init__(
        self,
        operations: Operations,
        recipe: Recipe,
        pool: PoolPlan,
        progress: Progress,
        attempts: Attempts,
        cache: CaptionCache | None = None,
    ) -> None:
        _set_threads(pool)
        self._batch, self._progress, self._attempts = recipe.batch, progress, attempts
        self._recipe, self._cache = recipe, cache
        self._loaded = load_model(
            "captioner",
            captioner_name(recipe.captioner),
            pool.device,
            lambda: operations.make_captioner(recipe, pool.device),
            attempts,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        writer = CaptionWriter(usable(self._loaded, self._progress), self._recipe, self._cache, self._each)
        started = time.perf_counter()
        rows = self._attempts.guarded("caption", table.to_pylist(), partial(_captioned, writer))
        seconds = time.perf_counter() - started
        good = [row for row in rows if row["error_stage"] is None]
        count = sum(len(row["results"]) for row in good)
        for row in good:
            row["seconds_caption"] = seconds / max(1, count)
        self._progress.add("caption", len(rows), seconds)
        return table_of_work(rows)

    def _each(self, call: Callable[[Sequence[_T]], Sequence[_R]], items: Sequence[_T]) -> list[_R | Exception]:
        """`call` on batches; where a batch raises, each of its items alone, so that an error stays with its own."""
        results: list[_R | Exception] = []
        while len(results) < len(items):
            chunk = items[len(results) : len(results) + self._batch]
            try:
                made = call(chunk)
                if len(made) != len(chunk):
                    raise ValueError(f"{len(made)} answers for {len(chunk)} questions")
                results += made
            except Refused as refused:
                results += refused.answers  # type: ignore[arg-type]  # a captioner's call, whose results are texts
                continue
            except Exception as error:
                leave_if_lost(error)
                failed = error.with_traceback(None)  # its frames hold the batch
            else:
                continue
            if is_out_of_memory(failed) and len(chunk) > 1:
                free_memory()
                self._batch = len(chunk) // 2
                self._progress.halved("caption", self._batch)
            else:
                results += [failed] if len(chunk) == 1 else [self._each(call, [item])[0] for item in chunk]
        return results


def _captioned(writer: CaptionWriter, rows: list[Row]) -> list[Row]:
    writer.fill([row for row in rows if row["error_stage"] is None])
    return rows


class EditStage:
    """An actor: fills each result with the raw pixels of its edit, or its error."""

    def __init__(
        self, operations: Operations, recipe: Recipe, pool: PoolPlan, progress: Progress, attempts: Attempts
    ) -> None:
        _set_threads(pool)
        self._batch, self._progress, self._attempts = recipe.batch, progress, attempts
        self._loaded = load_model(
            "model", recipe.model, pool.device, lambda: operations.make_editor(recipe, pool.device), attempts
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        self._edit = usable(self._loaded, self._progress)
        started = time.perf_counter()
        rows = self._attempts.guarded("edit", table.to_pylist(), self._edited)
        seconds = time.perf_counter() - started
        count = sum(result["image"] is not None for row in rows for result in row["results"] or ())
        for row in rows:
            row["seconds_edit"] = seconds / max(1, count)
        self._progress.add("edit", 0, seconds)
        return table_of_work(rows)

    def _edited(self, rows: list[Row]) -> list[Row]:
        self._run(_still_open([(row, _edit_tasks(row)) for row in rows if row["error_stage"] is None]))
        return rows

    def _run(self, work: "Sequence[_ImageWork]") -> None:
        """Edit all together, where memory runs out in smaller batches; where that raises, each image alone, then
        each task alone."""
        if not work:
            return
        try:
            self._edit_together(work)
            return
        except Exception as error:
            leave_if_lost(error)
            failed = error.with_traceback(None)  # its frames hold the batch
        # What came before the error is kept: an edit does not depend on its neighbours in the batch.
        left = _still_open(work)
        if is_out_of_memory(failed):
            free_memory()
            if self._batch > _SMALLEST_BATCH:
                self._batch = max(_SMALLEST_BATCH, self._batch // 2)
                self._progress.halved("edit", self._batch)
                self._run(left)
                return
        singles = [(row, [pair]) for row, pairs in left for pair in pairs]
        if len(singles) == 1:
            singles[0][1][0][0].update(error_on("edit", failed))
            return
        for item in left if len(left) > 1 else singles:
            self._run([item])

    def _edit_together(self, work: "Sequence[_ImageWork]") -> None:
        images = [np.asarray(source_image(row)) for row, _ in work]
        prompts, seeds = [row["source_prompt"] for row, _ in work], [row["seed"] for row, _ in work]
        results = [{task.edit_id: result for result, task in pairs} for _, pairs in work]
        tasks = [[task for _, task in pairs] for _, pairs in work]
        for edited in self._edit(images, prompts, tasks, seeds, self._batch):
            results[edited.row][edited.edit_id].update(_filled(edited), batch=self._batch)
            self._progress.add("edit", 1, 0.0)


def _edit_tasks(row: Row) -> "list[tuple[Row, EditTask]]":
    """The results of a row to be filled, each with its task."""
    from eim_ops.edit import EditTask

    strengths = {edit.edit_id: edit.strength for edit in edits_from_json(row["edits"])}
    return [
        (result, EditTask(result["edit_id"], tuple(result["target_prompts"]), strengths[result["edit_id"]]))
        for result in row["results"]
        if result["error_stage"] is None
    ]


def _still_open(work: "Sequence[_ImageWork]") -> "list[_ImageWork]":
    """The images that have results with neither pixels nor an error, with these alone."""
    left = [
        (row, [pair for pair in pairs if pair[0]["image"] is None and pair[0]["error_stage"] is None])
        for row, pairs in work
    ]
    return [(row, pairs) for row, pairs in left if pairs]


class NotFinite(Exception):
    """The edited latent or its decoded image held NaN or Inf."""


def _filled(edited: "EditedImage") -> Row:
    if not edited.finite:
        why = "the edited latent or its image held NaN or Inf; try a smaller strength or float32"
        return error_on("edit", NotFinite(why))
    height, width, _ = edited.pixels.shape
    return {
        "image": edited.pixels.tobytes(),
        "width": width,
        "height": height,
        "direction_id": edited.direction_id,
        "direction_method": edited.direction_method,
        "direction_residual": edited.direction_residual,
        "direction_iterations": edited.direction_iterations,
        "recon_psnr": edited.recon_psnr,
        "evaluations": edited.evaluations,
    }
