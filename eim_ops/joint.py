"""The data that flow through an edit. Row i of every tensor belongs to image i of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What a prompt becomes: the text half of the joint latent, or a difference of two of them.

    tokens: (B, L, D); pooled: (B, P).
    """

    tokens: Tensor
    pooled: Tensor

    def __add__(self, other: "Conditioning") -> "Conditioning":
        return Conditioning(self.tokens + other.tokens, self.pooled + other.pooled)

    def __sub__(self, other: "Conditioning") -> "Conditioning":
        return Conditioning(self.tokens - other.tokens, self.pooled - other.pooled)

    def scaled(self, factor: Tensor) -> "Conditioning":
        """Each row times its own factor, (B,)."""
        return Conditioning(self.tokens * per_row(factor, self.tokens), self.pooled * per_row(factor, self.pooled))

    def __getitem__(self, rows: Tensor | slice) -> "Conditioning":
        return Conditioning(self.tokens[rows], self.pooled[rows])

    def __len__(self) -> int:
        return len(self.tokens)

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Rows of all parts, in order."""
        return Conditioning(torch.cat([p.tokens for p in parts]), torch.cat([p.pooled for p in parts]))


@dataclass(frozen=True)
class JointLatent:
    """An encoded image with its prompt.

    clean: z0, the scaled VAE latent (B, C, h, w). noisy: x at `sigmas[0]`, the top of the source
    trajectory, same shape. residual: z0 minus what decoding `noisy` unedited returns. sigmas: (N + 1,)
    from sigma_max down to 0. conditioning: of the source prompts.
    """

    clean: Tensor
    noisy: Tensor
    residual: Tensor
    sigmas: Tensor
    conditioning: Conditioning

    def __getitem__(self, rows: Tensor | slice) -> "JointLatent":
        return JointLatent(
            self.clean[rows], self.noisy[rows], self.residual[rows], self.sigmas, self.conditioning[rows]
        )

    def __len__(self) -> int:
        return len(self.clean)

    @staticmethod
    def cat(parts: Sequence["JointLatent"]) -> "JointLatent":
        """Rows of all parts, in order. All parts share one sigma grid."""
        return JointLatent(
            torch.cat([p.clean for p in parts]), torch.cat([p.noisy for p in parts]),
            torch.cat([p.residual for p in parts]), parts[0].sigmas, Conditioning.cat([p.conditioning for p in parts]),
        )  # fmt: skip


@dataclass(frozen=True)
class Direction:
    """An edit direction in both halves; strength 1 is the requested change.

    image: n_x, a difference of clean latents (B, C, h, w). text: n_c, a difference of conditionings.
    """

    image: Tensor
    text: Conditioning

    def __add__(self, other: "Direction") -> "Direction":
        """Attributes compose by adding their directions."""
        return Direction(self.image + other.image, self.text + other.text)

    def __getitem__(self, rows: Tensor | slice) -> "Direction":
        return Direction(self.image[rows], self.text[rows])

    def scaled(self, image: Tensor, text: Tensor) -> "Direction":
        """Each half times its own factor per row, (B,)."""
        return Direction(self.image * per_row(image, self.image), self.text.scaled(text))

    @staticmethod
    def cat(parts: Sequence["Direction"]) -> "Direction":
        """Rows of all parts, in order."""
        return Direction(torch.cat([p.image for p in parts]), Conditioning.cat([p.text for p in parts]))


def per_row(factor: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to broadcast over the rows of `like`, in its dtype."""
    return factor.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
