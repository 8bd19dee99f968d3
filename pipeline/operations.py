"""What the flow takes from `eim_ops`: factories that run in the workers, and facts that need no weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eim_ops.arithmetic import ARITHMETIC
from eim_ops.aspect_buckets import Size
from eim_ops.captioning.minimal_pair import MAX_CHANGED_WORDS
from eim_ops.method import Method
from pipeline.captioner_spec import (
    GIVEN_PROMPTS,
    HttpSpec,
    TemplateSpec,
    VllmSpec,
    captioner_identity,
    captioner_name,
    pinned_name,
)
from pipeline.fit import Fit, sizes_of
from pipeline.identity import fingerprint
from pipeline.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from eim_ops.captioning.base import Captioner
    from eim_ops.task import EditedImage, EditTask


class Editor(Protocol):
    """What edits images, as `eim_ops.editor.Editor`: all at once where its pool does all, else in three units."""

    @property
    def revision(self) -> str:
        """What pins the weights that are loaded, as this machine has them."""
        ...

    @property
    def evaluations(self) -> int:
        """Rows of all model calls until now, padding among them."""
        ...

    def take_shared(self, folder: Path) -> None:
        """Make a shared direction known to tasks by the folder's name."""
        ...

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError for a prompt that the model would cut; costs no evaluation."""
        ...

    def __call__(
        self,
        images: Sequence[np.ndarray],
        source_prompts: Sequence[str],
        tasks: "Sequence[Sequence[EditTask]]",
        seeds: Sequence[int],
        batch: int,
    ) -> "Iterator[EditedImage]":
        """Yields each task's result once, in any order.

        Images are uint8 (H, W, 3) of one size; task lists and seeds run parallel to them. `batch`: rows of every model
        call.
        """
        ...

    def encode(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], seeds: Sequence[int], batch: int
    ) -> list[bytes]:
        """What the two others need of each image."""
        ...

    def identify(
        self,
        encoded: Sequence[bytes],
        source_prompts: Sequence[str],
        targets: Sequence[tuple[int, str]],
        seeds: Sequence[int],
        batch: int,
    ) -> list[bytes]:
        """The image half of each target (row of its image, target prompt)."""
        ...

    def manipulate(
        self,
        encoded: Sequence[bytes],
        halves: Sequence[Mapping[str, bytes]],
        source_prompts: Sequence[str],
        tasks: "Sequence[Sequence[EditTask]]",
        seeds: Sequence[int],
        batch: int,
    ) -> "Iterator[EditedImage]":
        """As the whole call, from what the two others gave: the halves of each image by target prompt."""
        ...


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a recipe's models before any weight is loaded."""

    model_revision: str
    captioner_revision: str
    sizes: tuple[Size, ...]
    """At which the model edits: one size for all images, or aspect buckets."""

    @property
    def most_pixels(self) -> int:
        """Of the largest of its sizes."""
        return max(size.pixels for size in self.sizes)


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
    spec = recipe.captioner
    if spec == GIVEN_PROMPTS or isinstance(spec, TemplateSpec):
        return None
    if isinstance(spec, HttpSpec):
        from eim_ops.captioning.http import HttpCaptioner

        settings = spec.model_dump(exclude={"kind"})
        # The recipe's rate and number of questions at once hold for all actors together.
        actors = recipe.pools.caption.size or 1
        settings["requests_per_minute"] /= actors
        settings["concurrency"] = spec.concurrency // actors
        return HttpCaptioner(**settings)
    if isinstance(spec, VllmSpec):
        from pipeline.vllm_captioner import start_vllm

        return start_vllm(spec)
    from eim_ops.named_models import load_captioner

    if isinstance(spec, str):
        return load_captioner(spec, None, device)
    return load_captioner(spec.model, spec.revision, device)


def _make_editor(recipe: Recipe, device: str) -> Editor:
    from eim_ops.editor import Editor
    from eim_ops.named_models import load_backbone

    backbone = load_backbone(recipe.model, recipe.model_revision, device, recipe.dtype, recipe.loading)
    return Editor(backbone, recipe.method)


def _facts(recipe: Recipe) -> ModelFacts:
    from eim_ops.encode import check_free_guidance
    from eim_ops.loading import check_image_half, stored_quantisation
    from eim_ops.named_models import checked_family, model_revision

    if isinstance(recipe.captioner, VllmSpec) and find_spec("vllm") is None:
        raise RecipeError("captioner: kind vllm needs vLLM, which is not installed here: pip install 'eim[vllm]'")
    try:
        revision = model_revision(recipe.model, recipe.model_revision)
        captioner_revision = _captioner_revision(recipe)
        config, family = checked_family(recipe.model, recipe.model_revision, recipe.loading)
        check_free_guidance(recipe.method, family.guidance_of(config))
        stored = stored_quantisation(config("transformer"))
        check_image_half(recipe.loading, recipe.method.image_half, recipe.dtype, stored)
        limits = family.size_step(config), family.largest_side(config)
        return ModelFacts(revision, captioner_revision, sizes_of(recipe, family.own_size(config), *limits))
    except (ValueError, OSError) as error:
        raise RecipeError(f"model: {error}") from None


def _captioner_revision(recipe: Recipe) -> str:
    """A captioner that is asked our questions changes with them, and with what its answers are held to; one that brings
    its own has them in its files."""
    from eim_ops.mini.shipped import SHIPPED
    from eim_ops.named_models import model_revision

    spec = recipe.captioner
    if spec == GIVEN_PROMPTS:
        return GIVEN_PROMPTS
    if isinstance(spec, TemplateSpec):
        return fingerprint(spec.model_dump())[:16]
    from eim_ops.captioning.instructions import GENERAL, constraint_is_installed

    if isinstance(spec, HttpSpec):
        return f"{spec.revision}+{GENERAL.digest}"
    pinned = model_revision(captioner_name(spec), None if isinstance(spec, str) else spec.revision)
    if isinstance(spec, VllmSpec):
        return f"{pinned}+{GENERAL.digest}"
    if captioner_name(spec) in SHIPPED:
        return pinned
    return f"{pinned}+{GENERAL.digest}" + ("+constrained" if constraint_is_installed() else "")


def caption_settings(recipe: Recipe, facts: ModelFacts) -> dict[str, Any]:
    """All settings that change captions, the image and the request aside: what they are cached by."""
    return {
        "captioner": captioner_identity(recipe.captioner),
        "captioner_revision": facts.captioner_revision,
        "max_changed_words": recipe.max_changed_words or MAX_CHANGED_WORDS,  # null spares none that is asked for
    }


def _method_settings(method: Method) -> dict[str, Any]:
    """Its settings but for those without effect beside the others."""
    settings = asdict(method)
    idle = {"noise"} if method.trajectory != "coupled" else set()
    if method.image_half != "hsds":
        idle |= {"iterations", "damping", "jacobian"}
    if method.image_half == "none":
        idle |= {"draws", "image_scale"}
    if method.free_guided_steps in (0, method.steps):
        idle.add("free_guidance_share")
    return {key: value for key, value in settings.items() if key not in idle}


def pixel_settings(recipe: Recipe, facts: ModelFacts) -> dict[str, Any]:
    """All settings that change pixels, the edit list aside: what the fingerprint is taken of."""
    return {
        "arithmetic": ARITHMETIC,
        # Of shared directions as it is given: they are refused where the model has another name.
        "model": recipe.model if recipe.direction == "shared" else pinned_name(recipe.model),
        "model_revision": facts.model_revision,
        **caption_settings(recipe, facts),
        "method": _method_settings(recipe.method),
        **Fit(facts.sizes, recipe.output_size).settings(),
        "batch": recipe.batch,
        "dtype": recipe.dtype,
        "seed": recipe.seed,
        **({"direction": ["shared", recipe.direction_images]} if recipe.direction == "shared" else {}),
        **({"loading": changed} if (changed := recipe.loading.pixels()) else {}),
    }
