"""Editing in three stages with an actor pool each: encode, identify, manipulate and decode. Same units, same rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.actors import EditStage
from pipeline.estimate import Workload
from pipeline.model_stage import ImageWork, ModelStage
from pipeline.work import BLANK_HALF, Row, source_image

if TYPE_CHECKING:
    from eim_ops.task import EditedImage, EditTask


class EncodeStage(ModelStage):
    """An actor: fills `encoded` of each image, or its error."""

    name, filled = "encode", "encoded"

    def cells(self, row: Row) -> list[tuple[Row, Any]]:
        """The row itself, where it has an edit to be made."""
        return [(row, None)] if any(result["error_stage"] is None for result in row["results"]) else []

    def prompts(self, asked: Any) -> Sequence[str]:
        """None."""
        return ()

    def fill(self, work: Sequence[ImageWork]) -> None:
        """All images in one call."""
        rows = [row for row, _ in work]
        images = [np.asarray(source_image(row)) for row in rows]
        before = self._edit.evaluations
        blobs = self._edit.encode(images, [row["source_prompt"] for row in rows], _seeds(rows), self._batch)
        for row, blob in zip(rows, blobs, strict=True):
            row.update(encoded=blob, batch=self._batch)
        self._useful += _useful(self._edit.evaluations - before, len(rows), self._batch)


class IdentifyStage(ModelStage):
    """An actor: fills `halves`, one for each target prompt of an image; an error goes to the edits that need it."""

    name, filled = "identify", "half"

    def cells(self, row: Row) -> list[tuple[Row, Any]]:
        """One for each prompt, made here."""
        return [] if row["encoded"] is None else self.halves_of(row)

    def prompts(self, asked: Any) -> Sequence[str]:
        """The cell's own."""
        return (asked,)

    def halves_of(self, row: Row) -> list[tuple[Row, Any]]:
        """The empty cells of a row."""
        open_results = [result for result in row["results"] if result["error_stage"] is None]
        prompts = dict.fromkeys(prompt for result in open_results for prompt in result["target_prompts"])
        row["halves"] = [{**BLANK_HALF, "prompt": prompt} for prompt in prompts]
        return [(half, half["prompt"]) for half in row["halves"]]

    def fill(self, work: Sequence[ImageWork]) -> None:
        """All targets of all images in one call."""
        rows = [row for row, _ in work]
        cells = [(place, cell) for place, (_, its) in enumerate(work) for cell, _ in its]
        targets = [(place, cell["prompt"]) for place, cell in cells]
        encoded, prompts = [row["encoded"] for row in rows], [row["source_prompt"] for row in rows]
        before = self._edit.evaluations
        blobs = self._edit.identify(encoded, prompts, targets, _seeds(rows), self._batch)
        for (place, cell), blob in zip(cells, blobs, strict=True):
            cell["half"] = blob
            rows[place]["batch"] = min(self._batch, rows[place]["batch"])
        its = Workload(images=len(rows), targets=len(cells))
        with_copies = max(1, its.padded(self._batch).identification(self._costs))
        self._useful += (self._edit.evaluations - before) * its.identification(self._costs) / with_copies

    def _edited(self, rows: list[Row]) -> list[Row]:
        rows = super()._edited(rows)
        for row in rows:
            failed = {half["prompt"]: half for half in row["halves"] or () if half["error_stage"] is not None}
            for result in row["results"] or ():
                for prompt in result["target_prompts"] or ():
                    if prompt in failed and result["error_stage"] is None:
                        result.update({key: value for key, value in failed[prompt].items() if key.startswith("error")})
        return rows


class ManipulateStage(EditStage):
    """An actor: fills each result with the raw pixels of its edit, or its error, from what the two others made."""

    def fill(self, work: Sequence[ImageWork]) -> None:
        """All edits of all images in one call."""
        before, useful = self._edit.evaluations, self._useful
        try:
            super().fill(work)
        finally:
            self._useful = useful  # an edit's evaluations hold its share of the other stages'
        count = sum(len(cells) for _, cells in work)
        self._useful += _useful(self._edit.evaluations - before, count, self._batch)

    def _edited(self, rows: list[Row]) -> list[Row]:
        rows = super()._edited(rows)
        for row in rows:
            row.update(encoded=None, halves=None)
        return rows

    def _images(self, rows: Sequence[Row], tasks: "Sequence[Sequence[EditTask]]") -> "Iterator[EditedImage]":
        encoded, prompts = [row["encoded"] for row in rows], [row["source_prompt"] for row in rows]
        halves = [{half["prompt"]: half["half"] for half in row["halves"] or ()} for row in rows]
        return self._edit.manipulate(encoded, halves, prompts, tasks, _seeds(rows), self._batch)


def _seeds(rows: Sequence[Row]) -> list[int]:
    return [row["seed"] for row in rows]


def _useful(evaluations: int, rows: int, batch: int) -> float:
    """Without those of the copies that fill the last batch."""
    return evaluations * rows / (-(-rows // batch) * batch)
