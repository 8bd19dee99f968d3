"""A direction from reference images: pairs that differ in one attribute only show it, without a model evaluation."""

from torch import Tensor

from eim_ops.identify.text import text_direction
from eim_ops.joint import Conditioning, Direction


def reference_direction(
    sources: Tensor, references: Tensor, source: Conditioning, target: Conditioning | None = None
) -> Direction:
    """n_x = mean over pairs of (z_ref - z_src), n_c = c_tgt - c_src: one row, which serves any image.

    sources, references: clean latents (N, C, h, w), row i of both is pair i. source, target: conditionings of the two
    prompts that state the difference, one row each, aligned; without `target` the text half is zero and `source`
    gives its shape alone. What else differs within pairs averages out over several, as 1 / N in variance.
    Raises ValueError for no pairs, unequal numbers or shapes. Source: method, 'Identify'; the mean is ours.
    """
    if sources.ndim != 4 or references.ndim != 4:
        raise ValueError(
            f"source latents are {tuple(sources.shape)} and references {tuple(references.shape)}; "
            "give both as (N, C, h, w), one image with N = 1"
        )
    if len(sources) != len(references):
        raise ValueError(
            f"{len(sources)} source images but {len(references)} references; give each source its reference, in order"
        )
    if len(sources) == 0:
        raise ValueError("no image pairs; give at least one source image with its reference")
    if sources.shape != references.shape:
        raise ValueError(
            f"source latents are {tuple(sources.shape[1:])}, references {tuple(references.shape[1:])}; "
            "encode both at one size by one backbone"
        )
    image = (references - sources).mean(0, keepdim=True)
    return Direction(image, _text_half(source, source if target is None else target))


def _text_half(source: Conditioning, target: Conditioning) -> Conditioning:
    if len(source) != 1 or len(target) != 1:
        raise ValueError(
            f"{len(source)} source and {len(target)} target conditionings; give one of each, "
            "of two prompts that differ in the attribute"
        )
    if source.tokens.shape != target.tokens.shape or source.pooled.shape != target.pooled.shape:
        raise ValueError(
            f"the source prompt's tokens are {tuple(source.tokens.shape[1:])}, the target's "
            f"{tuple(target.tokens.shape[1:])}, pooled {tuple(source.pooled.shape[1:])} and "
            f"{tuple(target.pooled.shape[1:])}; encode both by one backbone"
        )
    return text_direction(source, target)
