"""Shared directions: identified once for each target and request over a sample of the images, averaged and stored."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.asked_edits import AskedEdit, asked_edits, edits_from_json, edits_to_json
from pipeline.edit_spec import EditSpec
from pipeline.manifest import Manifest
from pipeline.model_stage import ImageWork
from pipeline.recipe import Recipe, RecipeError
from pipeline.shared_directions import SharedDirections, Wanted
from pipeline.split_stages import IdentifyStage
from pipeline.work import BLANK, Row, source_image


def wanted_directions(edits: Sequence[EditSpec]) -> dict[Wanted, EditSpec]:
    """Each (attribute, target) of the recipe with each of its requests, and the edit that asks for it alone."""
    parts = (part for edit in edits for part in zip(edit.attributes, edit.targets, edit.requests, strict=True))
    return {part: EditSpec(attribute=part[:1], target=part[1:2], request=part[2:], strengths=(1.0,)) for part in parts}


def sample_rows(manifest: Manifest, count: int, wanted: Mapping[Wanted, EditSpec]) -> list[Row]:
    """The rows of the `count` smallest sample ids, each asking for all that is wanted.

    Sample ids are hashes, so the smallest are as good as drawn, and the same for the same listing.
    """
    specs = list(wanted.values())
    rows: dict[str, Row] = {}
    for bucket in sorted(manifest.rows):
        for row in manifest.read(bucket):
            if row["problem"] is None and len(rows) < count:
                kept = {name: row[name] for name in ("sample_id", "uri", "version", "source_prompt", "fields")}
                asked = asked_edits({**row, "edits": None}, specs)
                rows.setdefault(row["sample_id"], {**BLANK, **kept, "edits": edits_to_json(asked)})
        if len(rows) == count:
            break
    return list(rows.values())


class SampleStage(IdentifyStage):
    """An actor: encodes the sample's images and fills their `halves`."""

    def cells(self, row: Row) -> list[tuple[Row, Any]]:
        """One for each prompt, made here."""
        return self.halves_of(row)

    def fill(self, work: Sequence[ImageWork]) -> None:
        """All images, then all targets, each in one call."""
        rows = [row for row, _ in work]
        images, prompts = [np.asarray(source_image(row)) for row in rows], [row["source_prompt"] for row in rows]
        blobs = self._edit.encode(images, prompts, [row["seed"] for row in rows], self._batch)
        for row, blob in zip(rows, blobs, strict=True):
            row.update(encoded=blob, batch=self._batch)
        super().fill(work)


def store_averages(
    rows: Sequence[Row], wanted: Iterable[Wanted], shared: SharedDirections, recipe: Recipe, revision: str
) -> None:
    """Average what the sample gave, put artifacts and records. Raises RecipeError where no image gave a direction."""
    for each in wanted:
        found = list(_halves(rows, each))
        good = [(row, result, half) for row, result, half in found if half is not None]
        if not good:
            raise RecipeError(_none_found(rows, each))
        with TemporaryDirectory(prefix="eim-directions-") as folder:
            shared.add(each, _average(good, each, recipe, revision, Path(folder)))


def _halves(rows: Sequence[Row], wanted: Wanted) -> Iterator[tuple[Row, Row, Any]]:
    """The rows and results that ask for what is wanted, with its image half as a tensor; None: it failed, is not
    finite, or leads nowhere, since the image shows the target already."""
    from eim_ops.carry import unpack_image

    for row in rows:
        results = {result["edit_id"]: result for result in row["results"] or ()}
        blobs = {half["prompt"]: half["half"] for half in row["halves"] or ()}
        for edit in edits_from_json(row["edits"]):
            if _wanted(edit) == wanted and edit.edit_id in results:
                result = results[edit.edit_id]
                prompt = (result["target_prompts"] or [None])[0]
                blob = None if prompt == row["source_prompt"] else blobs.get(prompt)
                image = None if blob is None else unpack_image(blob)
                yield row, result, image if image is not None and image.isfinite().all() else None


def _wanted(edit: AskedEdit) -> Wanted:
    return edit.attributes[0], edit.targets[0], edit.requests[0]


def _average(good: Sequence[tuple[Row, Row, Any]], wanted: Wanted, recipe: Recipe, revision: str, folder: Path) -> Path:
    """The artifact's folder, below `folder`."""
    from dataclasses import asdict

    import torch

    from eim_ops.identify.shared import SharedDirection, image_half_alone, save_direction

    if len({image.shape for _, _, image in good}) > 1:
        raise RecipeError("direction: shared directions need images of one shape; set a square size, or direction: own")
    made = SharedDirection(
        direction=image_half_alone(torch.cat([image for _, _, image in good]).mean(0, keepdim=True)),
        model=recipe.model,
        model_revision=revision,
        attribute=wanted[0],
        target=wanted[1],
        source_prompts=tuple(row["source_prompt"] for row, _, _ in good),
        target_prompts=tuple(result["target_prompts"][0] for _, result, _ in good),
        image_sha256s=tuple(row["source_sha256"] for row, _, _ in good),
        method=asdict(recipe.method),
        seed=recipe.seed,
    )
    return folder / save_direction(made, folder)


def _none_found(rows: Sequence[Row], wanted: Wanted) -> str:
    cells = (cell for row in rows for cell in (row, *(row["results"] or ()), *(row["halves"] or ())))
    errors = [f"{cell['error_type']}: {cell['error_message']}" for cell in cells if cell["error_stage"] is not None]
    why = errors[0] if errors else "they show the target already, or their directions held NaN or Inf"
    return (
        f"direction: none of the sample's {len(rows)} images gave a direction for {wanted[0]} -> {wanted[1]} ({why}); "
        "raise direction_images, or set direction: own"
    )
