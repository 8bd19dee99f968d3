"""An exact backbone: prompts are Gaussians, or mixtures of them, whose velocity is known in closed form.

The laboratory for every claim about the method: no weights, any dtype, derivatives as of any other backbone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, per_row


class GaussianBackbone(Backbone):
    """A prompt's images are an even mixture of K Gaussians with covariances that are diagonal in Fourier space.

    `conditioning.tokens` are the K means, (B, K, C*h*w), so that a text direction is a shift of means; `pooled` is
    unused. Latents are the images themselves.
    """

    def __init__(self, power: Tensor, means: Mapping[str, Tensor] | None = None) -> None:
        """power: variance by frequency of the orthonormal FFT, (C, h, w) or one for each component (K, C, h, w), equal
        at opposite frequencies. means: by prompt, (K, C, h, w)."""
        super().__init__("gaussian", "0", power.shape[-1])
        self.power = power if power.ndim == 4 else power[None]
        self.means = dict(means or {})

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError for a prompt that has no mean."""
        if prompt not in self.means:
            raise ValueError(f"the Gaussian world knows {', '.join(map(repr, self.means))}, not {prompt!r}")

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """The means of each prompt."""
        for prompt in prompts:
            self.check_prompt(prompt)
        return mean_conditioning(torch.stack([self.means[prompt] for prompt in prompts]))

    def encode_image(self, images: Tensor) -> Tensor:
        """The images, in the world's dtype."""
        return images.to(self.power.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """The images, clamped to [-1, 1]."""
        return latents.float().clamp(-1, 1)

    def grid(self, steps: int, shape: Sequence[int] | None = None) -> Tensor:
        """Even steps from 1 to 0."""
        return torch.linspace(1, 0, steps + 1, dtype=self.power.dtype)

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """E[eps - z0 | x]: over components by their posterior weights, within one in closed form."""
        means = conditioning.tokens.unflatten(2, latents.shape[1:])
        level = per_row(sigma.to(latents.dtype).expand(len(latents)), means)
        a = 1 - level
        variance = a**2 * self.power + level**2
        centred = torch.fft.fft2(latents[:, None] - a * means, norm="ortho")
        eps = torch.fft.ifft2(level / variance * centred, norm="ortho").real
        clean = means + torch.fft.ifft2(a * self.power / variance * centred, norm="ortho").real
        log_density = -0.5 * ((centred.real**2 + centred.imag**2) / variance + variance.log()).flatten(2).sum(2)
        weight = per_row(log_density.softmax(1).flatten(), eps.flatten(0, 1)).unflatten(0, log_density.shape)
        return (weight * (eps - clean)).sum(1)

    def draw(self, means: Tensor, seed: int) -> Tensor:
        """One image (B, C, h, w) around each of `means`, of the first component's covariance."""
        white = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed), dtype=means.dtype)
        coloured = self.power[0].sqrt() * torch.fft.fft2(white, norm="ortho")
        return means + torch.fft.ifft2(coloured, norm="ortho").real


def mean_conditioning(means: Tensor) -> Conditioning:
    """The conditioning of Gaussians with these means, (B, C, h, w), or mixtures, (B, K, C, h, w)."""
    means = means[:, None] if means.ndim == 4 else means
    return Conditioning(means.flatten(2), torch.zeros(len(means), 1, dtype=means.dtype))


def power_law(shape: Sequence[int], exponent: float) -> Tensor:
    """Variance 1/f^exponent as of natural images, float64 (C, h, w), mean 1; f in cycles, at least 1."""
    channels, height, width = shape
    rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width))
    frequency = (rows[:, None] ** 2 + columns[None] ** 2).sqrt().clamp(min=1)
    power = frequency**-exponent
    return (power / power.mean()).expand(channels, height, width)


def conditioned(shape: Sequence[int], condition: float, seed: int) -> Tensor:
    """Variances spread evenly in the logarithm from 1 / condition to 1 over random frequencies, float64 (C, h, w)."""
    draw = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    opposite = draw.flip((1, 2)).roll((1, 1), (1, 2))
    level = torch.maximum(draw, opposite)
    level = (level - level.min()) / (level.max() - level.min())
    return condition ** (level - 1)
