"""A direction that spares named attributes: the span of their directions is taken out of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eim_ops.joint import Conditioning, Direction, widened

_DEPENDENT = 100
"""In units of rounding: an other that the ones before it explain up to so little is taken as explained."""


def spare(direction: Direction, others: Sequence[Direction]) -> Direction:
    """`direction` without its part in the span of `others`, each row and each half on its own.

    The image half is one vector, the text half another, of tokens and pooled together. `others` have the rows of
    `direction`, or one row for all of them. Their lengths and order don't matter; one that is zero or in the span of
    the others removes nothing more. What is left is shorter, and zero up to rounding where `direction` is in the span.
    Scalars are float32 or wider; returned in the dtype of `direction`, whose rounding is what is left of the others.
    NaN or Inf in a row of another makes that row NaN: what it is can't be spared. Raises ValueError for other shapes.

    Modified Gram-Schmidt, gone through twice. Source: method, 'Identify'; orthogonality as the measure is ours.
    """
    for index, other in enumerate(others):
        _check_shape(index, direction, other)
    image = _without(direction.image.flatten(1), [other.image.flatten(1) for other in others])
    text = _without(_text_vector(direction.text), [_text_vector(other.text) for other in others])
    tokens, pooled = direction.text.tokens, direction.text.pooled
    width = tokens[0].numel()
    return Direction(
        image.view_as(direction.image).to(direction.image.dtype),
        Conditioning(
            text[:, :width].reshape(tokens.shape).to(tokens.dtype),
            text[:, width:].reshape(pooled.shape).to(pooled.dtype),
            direction.text.mask,
        ),
    )


def _check_shape(index: int, direction: Direction, other: Direction) -> None:
    shapes, others = (
        [tuple(part.shape[1:]) for part in (it.image, it.text.tokens, it.text.pooled)] for it in (direction, other)
    )
    if shapes != others:
        raise ValueError(
            f"others[{index}] has image, tokens and pooled of {others}, the direction of {shapes}; "
            "identify both on one backbone"
        )
    if len(other) not in (1, len(direction)):
        raise ValueError(
            f"others[{index}] has {len(other)} rows, the direction {len(direction)}; "
            "give one for each row, or one row for all"
        )


def _text_vector(text: Conditioning) -> Tensor:
    return torch.cat([text.tokens.flatten(1), text.pooled], dim=1)


def _without(vectors: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The part of each row (B, n) that is orthogonal to the same row of all `others`, float32 or wider."""
    wide = widened(vectors)
    rounding = torch.finfo(wide.dtype)
    basis: list[Tensor] = []
    for other in others:
        unit = _unit(other.to(wide), shortest=rounding.tiny)
        basis.append(_unit(_orthogonal(unit, basis), shortest=_DEPENDENT * rounding.eps))
    return _orthogonal(wide, basis)


def _orthogonal(vectors: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """Rows minus their parts along orthonormal rows; the second pass removes what rounding left in the first."""
    for _ in range(2):
        for unit in basis:
            vectors = vectors - (unit * vectors).sum(1, keepdim=True) * unit
    return vectors


def _unit(vectors: Tensor, shortest: float) -> Tensor:
    """Rows at length 1; those no longer than `shortest` become zero, those with NaN or Inf become NaN."""
    largest = vectors.abs().amax(1, keepdim=True)
    scaled = vectors / largest.clamp(min=torch.finfo(vectors.dtype).tiny)  # squares of it don't over- or underflow
    length = scaled.norm(dim=1, keepdim=True)
    units = scaled / length.clamp(min=torch.finfo(vectors.dtype).tiny)
    return torch.where(largest * length <= shortest, 0.0, units)
