"""How an image is brought to a size that the model edits, and its edit back."""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from eim_ops.aspect_buckets import Size, aspect_buckets, aspect_factor, nearest_bucket
from pipeline.recipe import Recipe
from pipeline.size_spec import OutputSize

MOST_STRETCH = 1.2
"""Of an image that is not cropped. Aspect buckets stay below it for what is no wider than they."""


class AspectRatioError(ValueError):
    """An image that no size fits without cropping or bending it out of shape."""


@dataclass(frozen=True)
class Fit:
    """The sizes of a run: one, or aspect buckets, of which an image takes the nearest by its aspect ratio."""

    sizes: tuple[Size, ...]
    output_size: OutputSize = "model"

    def __call__(self, image: Image.Image) -> Image.Image:
        """An upright image at its size. For output at the model's size the centre is cropped, and nothing bent; for
        output at the source's all of it is stretched, and nothing cut, so that the way back leads to every pixel.

        Raises AspectRatioError for a stretch by more than MOST_STRETCH.
        """
        own = Size(*image.size)
        size = nearest_bucket(own, self.sizes)
        if self.output_size == "model":
            return image if own == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        if (factor := float(aspect_factor(own, size))) > MOST_STRETCH:
            raise AspectRatioError(
                f"{own.width} x {own.height} px would be stretched by {factor:.3g} to {size.width} x {size.height}, "
                f"more than {MOST_STRETCH}: set aspect_buckets, with this ratio among them, or output_size: model, "
                "which crops"
            )
        return resized(image, size)

    def settings(self) -> dict[str, Any]:
        """What changes pixels and captions."""
        return {"sizes": [list(size) for size in self.sizes], "output_size": self.output_size}


def resized(image: Image.Image, size: Size) -> Image.Image:
    """The whole image at another size, by Lanczos."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def sizes_of(recipe: Recipe, own_size: int, step: int, largest_side: int | None = None) -> tuple[Size, ...]:
    """The sizes of a recipe with a model of this own size, whose sides are multiples of `step`.

    Raises ValueError for sizes that the model does not take.
    """
    side = own_size if recipe.size is None else recipe.size
    square = side if isinstance(side, Size) else Size(side, side)
    sizes = recipe.aspect_buckets if isinstance(recipe.aspect_buckets, tuple) else (square,)
    for size in sizes:
        key = "aspect_buckets" if isinstance(recipe.aspect_buckets, tuple) else "size"
        if any(length % step for length in size):
            raise ValueError(f"{key} is {_shown(size)}; {recipe.model} takes multiples of {step}")
        if largest_side is not None and max(size) > largest_side:
            raise ValueError(f"{key} is {_shown(size)}; the largest side that {recipe.model} takes is {largest_side}")
    if recipe.aspect_buckets is not True:
        return sizes
    table = aspect_buckets(square.width, step, largest_side)
    if len(table) == 1:
        raise ValueError(
            f"aspect_buckets: {recipe.model} takes no side above {largest_side}, so that about {_shown(square)} px "
            "there is none but the square; give a smaller size"
        )
    return table


def _shown(size: Size) -> str:
    return f"{size.width}" if size.width == size.height else f"{size.width} x {size.height}"
