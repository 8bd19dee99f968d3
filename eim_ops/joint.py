"""The data that flow through an edit. Row i of every tensor belongs to image i of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor


class Rows:
    """A dataclass of tensors, or of other Rows, that are indexed and joined by rows; None and fields marked shared
    stay."""

    def __getitem__(self, rows: Tensor | slice) -> Self:
        columns = [(f, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(v if "shared" in f.metadata or v is None else v[rows] for f, v in columns))

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    @classmethod
    def cat(cls, parts: "Sequence[Self]") -> Self:
        """Rows of all parts, in order; what is shared is the first part's."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}  # type: ignore[arg-type]
        shared = {f.name for f in fields(cls) if "shared" in f.metadata}  # type: ignore[arg-type]
        return cls(*(values[0] if name in shared else _cat(values) for name, values in columns.items()))


def _cat(values: Sequence[Any]) -> Any:
    if values[0] is None:
        return None
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else type(values[0]).cat(values)


@dataclass(frozen=True)
class Conditioning(Rows):
    """What a prompt becomes: the text half of the joint latent, or a difference of two of them.

    tokens: (B, L, D), L the same for every prompt of a backbone, so that rows of any calls go together. pooled: (B, P),
    P 0 where a family has none. mask: (B, L) float, 1 where there is a token and 0 where there is padding; None where
    a family attends to padding. It is added and scaled like the rest, so a direction's holds 1 for what the target
    has more and -1 for what it has less: see `present`.
    """

    tokens: Tensor
    pooled: Tensor
    mask: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """(B, L) bool: the tokens that the model sees. Between two prompts, those of the nearer one."""
        if self.mask is None:
            return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)
        return self.mask >= 0.5

    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name, an absent mask left out."""
        parts = {"tokens": self.tokens, "pooled": self.pooled, "mask": self.mask}
        return {name: part for name, part in parts.items() if part is not None}

    def __add__(self, other: "Conditioning") -> "Conditioning":
        mask = None if self.mask is None or other.mask is None else self.mask + other.mask
        return Conditioning(self.tokens + other.tokens, self.pooled + other.pooled, mask)

    def __sub__(self, other: "Conditioning") -> "Conditioning":
        mask = None if self.mask is None or other.mask is None else self.mask - other.mask
        return Conditioning(self.tokens - other.tokens, self.pooled - other.pooled, mask)

    def scaled(self, factor: Tensor) -> "Conditioning":
        """Each row times its own factor, (B,)."""
        return Conditioning(**{name: part * per_row(factor, part) for name, part in self.parts().items()})


@dataclass(frozen=True)
class FreeGuidance(Rows):
    """Classifier-free guidance of every prompt alike: v_empty + weight (v(c) - v_empty).

    empty: of the empty prompt. steps: how many of a grid's steps have it, the noisiest first.
    """

    empty: Conditioning
    weight: float = field(metadata={"shared": True})
    steps: int = field(metadata={"shared": True})


def in_step(free: FreeGuidance | None, step: int) -> FreeGuidance | None:
    """The free guidance of a grid's step, 0 the noisiest; None where it has none."""
    return free if free is not None and step < free.steps else None


@dataclass(frozen=True)
class Inversion(Rows):
    """The source trajectory as the one point that the ODE leads to.

    noisy: x at sigma_max (B, C, h, w). residual: z0 minus what decoding `noisy` unedited returns, same shape, float32
    or wider.
    """

    noisy: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Coupling(Rows):
    """The source trajectory as points on straight lines to each level's noise: x_i = (1 - sigma_i) z0 + sigma_i eps_i.

    eps: of every level but the last, (B, N, C, h, w). velocities: v(x_i, sigma_i, c_src), same shape.
    """

    eps: Tensor
    velocities: Tensor


@dataclass(frozen=True)
class JointLatent(Rows):
    """An encoded image with its prompt.

    clean: z0, the scaled VAE latent (B, C, h, w). conditioning: of the source prompts. trajectory: how z0 hangs
    together with its noisy points. sigmas: (N + 1,) from sigma_max down to 0, for all rows. free_guidance: that the
    trajectory was made with, and every edit from it is.
    """

    clean: Tensor
    conditioning: Conditioning
    trajectory: Inversion | Coupling
    sigmas: Tensor = field(metadata={"shared": True})
    free_guidance: FreeGuidance | None = None


@dataclass(frozen=True)
class Direction(Rows):
    """An edit direction in both halves; strength 1 is the requested change.

    image: n_x, a difference of clean latents (B, C, h, w). text: n_c, a difference of conditionings.
    """

    image: Tensor
    text: Conditioning

    def __add__(self, other: "Direction") -> "Direction":
        """Attributes compose by adding their directions."""
        return Direction(self.image + other.image, self.text + other.text)

    def scaled(self, image: Tensor, text: Tensor) -> "Direction":
        """Each half times its own factor per row, (B,)."""
        return Direction(self.image * per_row(image, self.image), self.text.scaled(text))


def widened(x: Tensor) -> Tensor:
    """In float32 at least: there small steps add up that half precision would round away."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_row(factor: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to broadcast over the rows of `like`, in its dtype."""
    return factor.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
