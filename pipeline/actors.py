"""The stages that hold a model, one actor pool each: captioning, and the fused encode, identify, manipulate.

As in `stages.py`, an error that Python can catch stays on its row.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.asked import AskedEdit, edits_from_json
from pipeline.operations import Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.work import BLANK_RESULT, Row, error_on, source_image, table_of_work

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

    def __init__(self, operations: Operations, recipe: Recipe, pool: PoolPlan, progress: Progress) -> None:
        _set_threads(pool)
        self._captioner = operations.make_captioner(recipe, pool.device)
        self._batch, self._progress = recipe.batch, progress

    def __call__(self, table: pa.Table) -> pa.Table:
        started = time.perf_counter()
        rows = table.to_pylist()
        self._describe(rows)
        good = [row for row in rows if row["error_stage"] is None]
        self._rewrite(good)
        seconds = time.perf_counter() - started
        count = sum(len(row["results"]) for row in good)
        for row in good:
            row["seconds_caption"] = seconds / max(1, count)
        self._progress.add("caption", len(rows), seconds)
        return table_of_work(rows)

    def _describe(self, rows: Sequence[Row]) -> None:
        bare = [row for row in rows if row["error_stage"] is None and row["source_prompt"] is None]
        if self._captioner is None:
            for row in bare:
                row.update(
                    error_on("caption", ValueError("captioner is 'manifest', but this row has no source_prompt"))
                )
            return
        images = [source_image(row) for row in bare]
        for row, prompt in zip(bare, _each(self._captioner.describe, images, self._batch), strict=True):
            row.update(error_on("caption", prompt) if isinstance(prompt, Exception) else {"source_prompt": prompt})

    def _rewrite(self, rows: Sequence[Row]) -> None:
        asked = [(row, edit) for row in rows for edit in edits_from_json(row["edits"])]
        wanted = {
            (row["source_prompt"], request): None
            for row, edit in asked
            for request, given in zip(edit.requests, edit.given_prompts, strict=True)
            if given is None
        }
        written = dict(zip(wanted, self._rewritten(list(wanted)), strict=True))
        for row in rows:
            row["results"] = [self._target(row, edit, written) for edit in edits_from_json(row["edits"])]

    def _rewritten(self, pairs: Sequence[tuple[str, str]]) -> list[str | Exception]:
        captioner = self._captioner
        if captioner is None:
            missing = ValueError("captioner is 'manifest', but this row has no target prompt for the attribute")
            return [missing] * len(pairs)

        def rewrite(chunk: Sequence[tuple[str, str]]) -> list[str]:
            return captioner.rewrite([prompt for prompt, _ in chunk], [request for _, request in chunk])

        return _each(rewrite, pairs, self._batch)

    def _target(self, row: Row, edit: AskedEdit, written: dict[tuple[str, str], str | Exception]) -> Row:
        prompts = []
        for request, given in zip(edit.requests, edit.given_prompts, strict=True):
            prompt = written[row["source_prompt"], request] if given is None else given
            if isinstance(prompt, Exception):
                return {**BLANK_RESULT, "edit_id": edit.edit_id, **error_on("caption", prompt)}
            prompts.append(prompt)
        return {**BLANK_RESULT, "edit_id": edit.edit_id, "target_prompts": prompts}


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
