"""The method on one image, in a notebook or a script: load, edit, look."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from eim_ops.backbones.base import Backbone
from eim_ops.captioning.base import Captioner
from eim_ops.captioning.minimal_pair import check_minimal_pair
from eim_ops.edit import edit_images, only_finite
from eim_ops.encode import check_free_guidance
from eim_ops.method import Method
from eim_ops.named_models import load_backbone, load_captioner
from eim_ops.rgb import upright_rgb
from eim_ops.task import EditTask


@dataclass(frozen=True)
class Models:
    """What an edit needs. Without a captioner, prompts must be given."""

    backbone: Backbone
    captioner: Captioner | None


def load_models(
    model: str = "mini-dit", captioner: str | None = None, device: str = "auto", dtype: str = "float32"
) -> Models:
    """Load a backbone and a captioner by name: a shipped one, or a local folder. dtype: the backbone's, as torch names
    it, such as `bfloat16`."""
    backbone = load_backbone(model, device=device, dtype=dtype)
    return Models(backbone, load_captioner(captioner, device=device) if captioner else None)


def edit_image(
    models: Models,
    image: Image.Image,
    request: str,
    strengths: Sequence[float] = (-1, 0, 0.5, 1, 1.5),
    *,
    source_prompt: str | None = None,
    target_prompt: str | None = None,
    method: Method | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    batch: int = 4,
) -> list[Image.Image]:
    """One image edited at each strength. 0 is the source as the autoencoder gives it back, 1 the requested change.

    The captioner writes the prompts that are not given. The image is set upright, resized and centre-cropped to `size`,
    (width, height), by default the model's own square; `aspect_buckets.nearest_bucket` finds one of its aspect ratio.
    batch: rows of every model call, which memory bounds; an edit's pixels depend on it, and on no other strength.
    Raises ValueError for free guidance of a model that isn't made for it, where a prompt is missing and nobody can
    write it, or where the two differ in more than one edit; ArithmeticError where an edit is not finite.
    """
    method = method or Method()
    check_free_guidance(method, models.backbone.guidance_kind)
    own = models.backbone.image_size
    fitted = ImageOps.fit(upright_rgb(image), size or (own, own), Image.Resampling.LANCZOS)
    if models.captioner is None and (source_prompt is None or target_prompt is None):
        raise ValueError("without a captioner both source_prompt and target_prompt must be given")
    if source_prompt is None:
        (source_prompt,) = models.captioner.describe([fitted])  # type: ignore[union-attr]
    if target_prompt is None:
        (target_prompt,) = models.captioner.rewrite([source_prompt], [request])  # type: ignore[union-attr]
    check_minimal_pair(source_prompt, target_prompt)
    tasks = [EditTask(str(place), (target_prompt,), strength) for place, strength in enumerate(strengths)]
    pixels = [np.asarray(fitted)]
    edited = only_finite(edit_images(models.backbone, pixels, [source_prompt], [tasks], method, [seed], batch))
    by_place = {int(one.edit_id): Image.fromarray(one.pixels) for one in edited}
    return [by_place[place] for place in range(len(tasks))]


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size side by side. Raises ValueError for none, or for other sizes than the first's."""
    if not images or any(image.size != images[0].size for image in images):
        raise ValueError(f"a strip needs images of one size, got {[image.size for image in images]}")
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for place, image in enumerate(images):
        row.paste(image, (place * width, 0))
    return row
