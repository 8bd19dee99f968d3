"""The stages that hold a model, one actor pool each: captioning, and the fused encode, identify, manipulate.

As in `stages.py`, an error that Python can catch stays on its row; memory that runs out halves the batch, in captioning
as in `model_stage.py`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from eim_ops.captioning.base import Refused
from pipeline.asked_edits import edits_from_json
from pipeline.attempts import Attempts
from pipeline.caption_cache import CaptionCache
from pipeline.captioner_spec import captioner_name, questions_at_once
from pipeline.captions import CaptionWriter
from pipeline.device import free_memory, is_out_of_memory, leave_if_lost
from pipeline.model_loading import load_model, usable
from pipeline.model_stage import ImageWork, ModelStage, set_threads
from pipeline.operations import Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.shared_directions import Wanted
from pipeline.work import Row, error_on, source_image, table_of_work

if TYPE_CHECKING:
    from eim_ops.task import EditedImage, EditTask

_T = TypeVar("_T")
_R = TypeVar("_R")


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
        set_threads(1)
        self._threads = pool.threads
        self._progress, self._attempts = progress, attempts
        self._recipe, self._cache = recipe, cache
        self._batch = questions_at_once(recipe.captioner, recipe.batch)
        self._loaded = load_model(
            "captioner",
            captioner_name(recipe.captioner),
            pool.device,
            lambda: operations.make_captioner(recipe, pool.device),
            "caption",
            progress,
            attempts,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        set_threads(self._threads)
        writer = CaptionWriter(usable(self._loaded, self._progress), self._recipe, self._cache, self._each)
        self._progress.taken("caption", len(table))
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


class EditStage(ModelStage):
    """An actor: fills each result with the raw pixels of its edit, or its error."""

    name, filled = "edit", "image"

    def count(self, rows: Sequence[Row]) -> int:
        """None: each edit is reported as it is made."""
        return 0

    def cells(self, row: Row) -> list[tuple[Row, Any]]:
        """The results that have no error, each with its task."""
        return _edit_tasks(row, self._shared)

    def prompts(self, asked: Any) -> Sequence[str]:
        """The targets of the task."""
        return asked.target_prompts

    def fill(self, work: Sequence[ImageWork]) -> None:
        """All edits of all images in one call."""
        results = [{task.edit_id: result for result, task in cells} for _, cells in work]
        rows, tasks = [row for row, _ in work], [[task for _, task in cells] for _, cells in work]
        for edited in self._images(rows, tasks):
            batch = min(self._batch, rows[edited.row]["batch"] or self._batch)
            results[edited.row][edited.edit_id].update(_filled(edited), batch=batch)
            self._useful += edited.evaluations
            self._progress.add(self.name, 1, 0.0)

    def _images(self, rows: Sequence[Row], tasks: "Sequence[Sequence[EditTask]]") -> "Iterator[EditedImage]":
        images = [np.asarray(source_image(row)) for row in rows]
        prompts, seeds = [row["source_prompt"] for row in rows], [row["seed"] for row in rows]
        return self._edit(images, prompts, tasks, seeds, self._batch)


def _edit_tasks(row: Row, shared: Mapping[Wanted, str]) -> list[tuple[Row, Any]]:
    """The results of a row to be filled, each with its task; shared: the ids of directions."""
    from eim_ops.task import EditTask

    asked = {edit.edit_id: edit for edit in edits_from_json(row["edits"])}
    tasks = []
    for result in row["results"]:
        if result["error_stage"] is None:
            edit = asked[result["edit_id"]]
            parts = list(zip(edit.attributes, edit.targets, edit.requests, strict=True)) if shared else []
            if unknown := [part for part in parts if part not in shared]:
                result.update(error_on("edit", NoSharedDirection(_NO_DIRECTION.format(*unknown[0]))))
                continue
            ids = tuple(shared[part] for part in parts)
            tasks.append((result, EditTask(edit.edit_id, tuple(result["target_prompts"]), edit.strength, ids)))
    return tasks


class NoSharedDirection(Exception):
    """An edit of a row's own, whose target, or its request, is none of the recipe's."""


_NO_DIRECTION = "no shared direction for {} -> {}, request {!r}: list it in the recipe's edits, or set direction: own"


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
