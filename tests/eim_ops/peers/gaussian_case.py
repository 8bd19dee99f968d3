"""Three images in the Gaussian world, with the closed forms that every peer's result is worked out from.

Write a = 1 - sigma, V = a^2 S + sigma^2 with S the variance of a frequency, and mu for the mean of the prompt's
images. Guidance mixes velocities, which are affine in mu: it is the mean mu_g = mu_e + w (mu - mu_e). Then
    v = (sigma - a S) / V (x - a mu_g) - mu_g ,   z0_hat = x - sigma v = mu_g + a S / V (x - a mu_g) ,
and since dV/dsigma = 2 (sigma - a S), the sampler's ODE keeps (x - a mu_g) / sqrt(V) constant.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.joint import Conditioning
from eim_ops.noise import noise

SHAPE = (3, 2, 4, 4)
SEEDS = [3, 1, 2]


class RecordingWorld(GaussianBackbone):
    """Notes what each velocity is asked for, and answers in the latents' dtype as a network does."""

    def __init__(self, power: Tensor) -> None:
        super().__init__(power)
        self.calls: list[tuple[Tensor, Tensor, Conditioning]] = []

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append((latents, sigma, conditioning))
        return super().velocity(latents, sigma, conditioning).to(latents.dtype)


class GaussianCase:
    """world: with variances from .05 to 1. clean: one image of the source prompt a row. means: of each prompt."""

    def __init__(self) -> None:
        self.world = RecordingWorld(conditioned(SHAPE[1:], 20, 0))
        generator = torch.Generator().manual_seed(0)
        self.means = {
            name: torch.randn(SHAPE, generator=generator, dtype=torch.float64) for name in ("source", "target", "empty")
        }
        self.clean = self.world.draw(self.means["source"], 5)
        self.eps = noise(SEEDS, 1, SHAPE[1:])[0].double()
        self.variance = self.world.power[0]

    def edit(self, peer: Callable[..., Tensor], settings: Any) -> Tensor:
        """The peer's result, from the source prompt to the target prompt."""
        source, wanted, empty = (mean_conditioning(self.means[name]) for name in ("source", "target", "empty"))
        return peer(self.world, self.clean, source, wanted, empty, SEEDS, settings)

    def guided_mean(self, name: str, guidance: float) -> Tensor:
        """mu_g of a prompt."""
        return self.means["empty"] + guidance * (self.means[name] - self.means["empty"])

    def noised_variance(self, sigma: float) -> Tensor:
        """V at each frequency."""
        return (1 - sigma) ** 2 * self.variance + sigma**2
