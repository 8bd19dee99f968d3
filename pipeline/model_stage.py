"""What the stages that edit have in common: one model, full batches, and an error that stays with its own.

A stage fills *cells*: an image's row when it encodes, a direction when it identifies, a result when it edits. Where
memory runs out, the actor halves its batch and keeps the smaller one: all its calls have one shape, so the next would
end alike, after the same time. Prompts are checked before anything is computed, and after any other error a batch is
tried in two halves, each call padded to a whole batch: one bad cell of n costs some 2 log2 n calls, not n.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa

from eim_ops.cost import costs
from pipeline.attempts import Attempts
from pipeline.device import free_memory, is_out_of_memory, leave_if_lost
from pipeline.model_loading import load_model, usable
from pipeline.operations import Editor, Operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.shared_directions import SharedDirections, Wanted
from pipeline.work import Row, error_on, table_of_work

ImageWork = tuple[Row, list[tuple[Row, Any]]]
"""An image's row with its cells to be filled, each with what is asked of it."""

_SMALLEST_BATCH = 2
"""Of an editor's model calls: kernels for a single row differ."""


def set_threads(threads: int) -> None:
    """How many threads torch computes with, where it is imported: an actor that asks a server never imports it. Ray
    gives workers OMP_NUM_THREADS=1, with which torch begins; the plan knows better.

    Ray Data makes an actor in one thread and calls it in another. Each that computes in parallel keeps its own team,
    and where teams together have more threads than there are cores, libgomp's waits sleep instead of spin. So an actor
    loads with one thread, and takes the plan's where it is called.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


class ModelStage(ABC):
    """An actor with an editor."""

    name: ClassVar[str]
    filled: ClassVar[str]
    """The column of a cell that is null until it is filled."""

    def __init__(
        self,
        operations: Operations,
        recipe: Recipe,
        pool: PoolPlan,
        progress: Progress,
        attempts: Attempts,
        shared: SharedDirections | None = None,
    ) -> None:
        """shared: the directions whose image halves the edits take; None: each image's own."""
        set_threads(1)
        self._threads = pool.threads
        self._batch, self._progress, self._attempts = recipe.batch, progress, attempts
        self._costs = costs(recipe.method)
        self._images_at_once = recipe.batch  # a device holds their trajectories
        self._shared: Mapping[Wanted, str] = {} if shared is None else shared.ids

        def make() -> Editor:
            editor = operations.make_editor(recipe, pool.device)
            if shared is not None:
                with TemporaryDirectory(prefix="eim-directions-") as folder:
                    for path in shared.fetch(Path(folder)):
                        editor.take_shared(path)
            return editor

        self._useful = 0.0
        self._loaded = load_model("model", recipe.model, pool.device, make, self.name, progress, attempts)

    def __call__(self, table: pa.Table) -> pa.Table:
        set_threads(self._threads)
        self._edit = usable(self._loaded, self._progress)
        self._progress.taken(self.name, len(table))
        before, started = self._edit.evaluations, time.perf_counter()
        self._useful = 0.0
        rows = self._attempts.guarded(self.name, table.to_pylist(), self._edited)
        seconds = time.perf_counter() - started
        count = max(1, sum(result["error_stage"] is None for row in rows for result in row["results"] or ()))
        for row in rows:
            row["seconds_edit"] = (row["seconds_edit"] or 0.0) + seconds / count
        self._progress.add(self.name, self.count(rows), seconds)
        self._progress.evaluated(self.name, self._useful, self._edit.evaluations - before)
        return table_of_work(rows)

    def count(self, rows: Sequence[Row]) -> int:
        """Rows to be reported when a table is done, where they are not before."""
        return len(rows)

    @abstractmethod
    def cells(self, row: Row) -> list[tuple[Row, Any]]:
        """The cells of a row that has no error, filled ones among them."""

    @abstractmethod
    def prompts(self, asked: Any) -> Sequence[str]:
        """What a cell's work encodes as text, besides its image's source prompt."""

    @abstractmethod
    def fill(self, work: Sequence[ImageWork]) -> None:
        """Fill the cells of images of one size in full batches; what it raises is tried again in smaller parts."""

    def _edited(self, rows: list[Row]) -> list[Row]:
        work = self._still_open([(row, self.cells(row)) for row in rows if row["error_stage"] is None])
        self._refuse_prompts(work)
        for its_work in _by_size(self._still_open(work), self._images_at_once):
            self._run(its_work)
        return rows

    def _refuse_prompts(self, work: Sequence[ImageWork]) -> None:
        """Put the error of each prompt that the model does not take on the cells that need it."""
        problems: dict[str, Exception | None] = {}
        for row, cells in work:
            for cell, asked in cells:
                for prompt in (row["source_prompt"], *self.prompts(asked)):
                    if prompt not in problems:
                        problems[prompt] = self._problem(prompt)
                    if (problem := problems[prompt]) is not None:
                        cell.update(error_on(self.name, problem))
                        break

    def _problem(self, prompt: str) -> Exception | None:
        try:
            self._edit.check_prompt(prompt)
        except Exception as error:
            return error
        return None

    def _run(self, work: Sequence[ImageWork]) -> None:
        """Fill all together, where memory runs out in smaller batches; where that raises, each half of the images, at
        last each half of one image's cells."""
        if not work:
            return
        try:
            self.fill(work)
            return
        except Exception as error:
            leave_if_lost(error)
            failed = error.with_traceback(None)  # its frames hold the batch
        # What came before the error is kept: a cell does not depend on its neighbours in the batch.
        left = self._still_open(work)
        if is_out_of_memory(failed):
            free_memory()
            if self._batch > _SMALLEST_BATCH:
                self._batch = max(_SMALLEST_BATCH, self._batch // 2)
                self._progress.halved(self.name, self._batch)
                self._run(left)
                return
        singles = [(row, [cell]) for row, cells in left for cell in cells]
        if len(singles) == 1:
            singles[0][1][0][0].update(error_on(self.name, failed))
            return
        for half in _halves(left):
            self._run(half)

    def _still_open(self, work: Sequence[ImageWork]) -> list[ImageWork]:
        """The images that have cells neither filled nor with an error, with these alone."""
        left = [
            (row, [cell for cell in cells if cell[0][self.filled] is None and cell[0]["error_stage"] is None])
            for row, cells in work
        ]
        return [(row, cells) for row, cells in left if cells]


def _halves(work: Sequence[ImageWork]) -> list[Sequence[ImageWork]]:
    """Of the images, or where there is one, of its cells."""
    if len(work) > 1:
        return [work[: len(work) // 2], work[len(work) // 2 :]]
    return [[(row, part)] for row, cells in work for part in (cells[: len(cells) // 2], cells[len(cells) // 2 :])]


def _by_size(work: Sequence[ImageWork], most: int) -> Iterator[list[ImageWork]]:
    """The images of each size, `most` at a time: a model call has one shape."""
    groups: defaultdict[tuple[int, int], list[ImageWork]] = defaultdict(list)
    for item in work:
        groups[item[0]["model_width"], item[0]["model_height"]].append(item)
    for group in groups.values():
        yield from (group[start : start + most] for start in range(0, len(group), most))
