"""The stages that hold a model, one actor pool each: captioning, and the fused encode, identify, manipulate.

As in `stages.py`, an error that Python can catch stays on its row.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from eim_ops.captioning.base import Refused
from pipeline.asked import edits_from_json
from pipeline.caption_cache import CaptionCache
from pipeline.captions import CaptionWriter
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


def _leave_if_device_is_lost(error: Exception) -> None:
    """After such an error every later call of the process fails too: end it, so that Ray starts a fresh actor."""
    import torch

    if isinstance(error, torch.AcceleratorError):
        os._exit(1)


def _each(call: Callable[[Sequence[_T]], Sequence[_R]], items: Sequence[_T], batch: int) -> list[_R | Exception]:
    """`call` on batches; where a batch raises, each of its items alone, so that an error stays with its own."""
    results: list[_R | Exception] = []
    for start in range(0, len(items), batch):
        chunk = items[start : start + batch]
        try:
            results += call(chunk)
        except Refused as refused:
            results += refused.answers  # type: ignore[arg-type]  # a captioner's call, whose results are texts
        except Exception as error:
            _leave_if_device_is_lost(error)
            results += [error] if len(chunk) == 1 else _each(call, chunk, 1)
    return results


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
        cache: CaptionCache | None = None,
    ) -> None:
        _set_threads(pool)
        captioner = operations.make_captioner(recipe, pool.device)
        self._writer = CaptionWriter(captioner, recipe, cache, _each)
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        started = time.perf_counter()
        rows = table.to_pylist()
        self._writer.fill([row for row in rows if row["error_stage"] is None])
        seconds = time.perf_counter() - started
        good = [row for row in rows if row["error_stage"] is None]
        count = sum(len(row["results"]) for row in good)
        for row in good:
            row["seconds_caption"] = seconds / max(1, count)
        self._progress.add("caption", len(rows), seconds)
        return table_of_work(rows)


class EditStage:
    """An actor: fills each result with the raw pixels of its edit, or its error."""

    def __init__(self, operations: Operations, recipe: Recipe, pool: PoolPlan, progress: Progress) -> None:
        _set_threads(pool)
        self._edit = operations.make_editor(recipe, pool.device)
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        started = time.perf_counter()
        rows = table.to_pylist()
        work = _still_open([(row, _edit_tasks(row)) for row in rows if row["error_stage"] is None])
        self._run(work)
        seconds = time.perf_counter() - started
        count = sum(len(pairs) for _, pairs in work)
        for row, _ in work:
            row["seconds_edit"] = seconds / count
        self._progress.add("edit", 0, seconds)
        return table_of_work(rows)

    def _run(self, work: "Sequence[_ImageWork]") -> None:
        """Edit all together; where that raises, each image alone, then each task alone."""
        if not work:
            return
        images = [np.asarray(source_image(row)) for row, _ in work]
        prompts, seeds = [row["source_prompt"] for row, _ in work], [row["seed"] for row, _ in work]
        results = [{task.edit_id: result for result, task in pairs} for _, pairs in work]
        try:
            for edited in self._edit(images, prompts, [[task for _, task in pairs] for _, pairs in work], seeds):
                results[edited.row][edited.edit_id].update(_filled(edited))
                self._progress.add("edit", 1, 0.0)
        except Exception as error:
            _leave_if_device_is_lost(error)
            # What came before the error is kept: an edit does not depend on its neighbours in the batch.
            left = _still_open(work)
            singles = [(row, [pair]) for row, pairs in left for pair in pairs]
            if len(singles) == 1:
                singles[0][1][0][0].update(error_on("edit", error))
                return
            for item in left if len(left) > 1 else singles:
                self._run([item])


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
    """The edited latent held NaN or Inf."""


def _filled(edited: "EditedImage") -> Row:
    if not edited.finite:
        return error_on("edit", NotFinite("the edited latent held NaN or Inf; try a smaller strength or float32"))
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
