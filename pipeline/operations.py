"""What the flow takes from `eim_ops`: factories that run in the workers, and facts that need no weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from eim_ops.captioning.base import Captioner
    from eim_ops.edit import EditedImage, EditTask

GIVEN_PROMPTS = "manifest"
"""The captioner's name in a recipe whose manifest brings every prompt."""


class Editor(Protocol):
    """Makes all edits of a few images; yields each task's result once, in any order."""

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: "Sequence[Sequence[EditTask]]",
        seeds: Sequence[int],
        batch: int,
    ) -> "Iterator[EditedImage]":
        """Images are uint8 (H, W, 3); task lists and seeds run parallel to them. `batch`: rows of every model call."""
        ...


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a recipe's models before any weight is loaded."""

    model_revision: str
    captioner_revision: str
    image_size: int
    """Pixels of the square images that the model edits."""


@dataclass(frozen=True)
class Operations:
    """Factories, picklable; the first two are called in the actor that uses the result, with its device."""

    make_captioner: "Callable[[Recipe, str], Captioner | None]"
    make_editor: Callable[[Recipe, str], Editor]
    facts: Callable[[Recipe], ModelFacts]


def real_operations() -> Operations:
    """The operations of `eim_ops`."""
    return Operations(_make_captioner, _make_editor, _facts)


def _make_captioner(recipe: Recipe, device: str) -> "Captioner | None":
    from eim_ops.load import load_captioner

    return None if recipe.captioner == GIVEN_PROMPTS else load_captioner(recipe.captioner, None, device)


def _make_editor(recipe: Recipe, device: str) -> Editor:
    from eim_ops.edit import edit_images
    from eim_ops.load import load_backbone

    backbone = load_backbone(recipe.model, recipe.model_revision, device, recipe.dtype, recipe.loading)
    return partial(_edit, edit_images, backbone, recipe)


def _edit(
    edit_images: Any,
    backbone: Any,
    recipe: Recipe,
    images: Sequence[np.ndarray],
    source_prompts: Sequence[str],
    tasks: "Sequence[Sequence[EditTask]]",
    seeds: Sequence[int],
    batch: int,
) -> "Iterator[EditedImage]":
    return edit_images(backbone, images, source_prompts, tasks, recipe.method, seeds, batch)


def _facts(recipe: Recipe) -> ModelFacts:
    from eim_ops.encode import check_free_guidance
    from eim_ops.load import checked_family, model_revision
    from eim_ops.loading import check_image_half

    captioner = recipe.captioner
    try:
        revision = model_revision(recipe.model, recipe.model_revision)
        captioner_revision = captioner if captioner == GIVEN_PROMPTS else model_revision(captioner, None)
        config, family = checked_family(recipe.model, recipe.model_revision, recipe.loading)
        check_free_guidance(recipe.method, family.guidance_of(config))
        check_image_half(recipe.loading, recipe.method.image_half)
        size, step = recipe.size or family.own_size(config), family.size_step(config)
        if size % step:
            raise ValueError(f"size is {size}; {recipe.model} takes multiples of {step}")
        return ModelFacts(revision, captioner_revision, size)
    except (ValueError, OSError) as error:
        raise RecipeError(f"model: {error}") from None


def pixel_settings(recipe: Recipe, facts: ModelFacts) -> dict[str, Any]:
    """All settings that change pixels, the edit list aside: what the fingerprint is taken of."""
    return {
        "model": recipe.model,
        "model_revision": facts.model_revision,
        "captioner": recipe.captioner,
        "captioner_revision": facts.captioner_revision,
        "method": asdict(recipe.method),
        "size": facts.image_size,
        "batch": recipe.batch,
        "dtype": recipe.dtype,
        "seed": recipe.seed,
        **({"loading": changed} if (changed := recipe.loading.pixels()) else {}),
    }
