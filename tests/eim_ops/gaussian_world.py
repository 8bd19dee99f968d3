"""An exact backbone: each prompt is a Gaussian N(mean, spread^2 I) of latents, its velocity in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from eim_ops.joint import Conditioning


@dataclass
class GaussianBackbone:
    """`conditioning.tokens` is the mean, shaped (B, 1, C*h*w); `pooled` is unused."""

    spread: float = 0.7
    evaluations: int = 0

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.evaluations += len(latents)
        mean = conditioning.tokens.view_as(latents)
        a = 1 - sigma
        centred = latents - a * mean
        variance = a**2 * self.spread**2 + sigma**2
        return sigma / variance * centred - (mean + a * self.spread**2 / variance * centred)

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def mean_conditioning(mean: Tensor) -> Conditioning:
    """The conditioning whose Gaussian has `mean` (B, C, h, w)."""
    return Conditioning(mean.flatten(1)[:, None], torch.zeros(len(mean), 1, dtype=mean.dtype))
