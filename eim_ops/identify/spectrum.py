"""The power spectrum of what a prompt leaves open in a latent: how much images of one prompt vary at each frequency.

HSDS is preconditioned and damped by it: the curvature of log p(x | c) is that of the images *within* a condition. The
spectrum of all images is another, far steeper one, since prompts explain most of what is large. It is measured once
from captioned images and kept beside the model's weights.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning
from eim_ops.noise import noise, noised

FILE = "spectrum.safetensors"
_FLOOR = 1e-3
_TOP = 0.98
"""The noise level at which a denoised image is what the prompt alone tells; at 1 exactly, models are little trained."""


def unexplained(backbone: Backbone, latents: Tensor, conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
    """Clean latents (B, C, h, w) less E[z0 | c] by the model: x - sigma v at the top noise level. Ours.

    One evaluation a row.
    """
    eps = noise(seeds, 1, latents.shape[1:])[0].to(latents)
    sigma = torch.tensor(_TOP)
    x = noised(latents, eps, sigma.to(latents))
    return latents - (x - sigma.to(latents) * backbone.velocity(x, sigma, conditioning))


def measure_spectrum(latents: Tensor) -> Tensor:
    """Variance at each frequency of the orthonormal FFT, over rows: (N, C, h, w) to float32 (C, h, w).

    Raises ValueError for fewer than two images.
    """
    if len(latents) < 2:
        raise ValueError("a spectrum is a variance over images; give at least two, hundreds for a smooth one")
    centred = torch.fft.fft2((latents - latents.mean(0)).double(), norm="ortho")
    return (centred.real**2 + centred.imag**2).mean(0).float()


def floored(spectrum: Tensor) -> Tensor:
    """The spectrum with nothing below a thousandth of its mean: what hardly ever varies is damped, not forbidden."""
    return spectrum.clamp(min=_FLOOR * float(spectrum.mean()))


def resampled(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    """A positive spectrum (C, h, w) at the frequencies of latents of another `shape`, (h', w'). Ours.

    Under the orthonormal FFT the variance at a frequency, in cycles a latent, does not depend on the grid where images
    are stationary; between the frequencies of the grid its logarithm is interpolated linearly, over the border of the
    periodic spectrum too. Of the own shape it is the spectrum itself.
    """
    for axis, count in zip((-2, -1), shape, strict=True):
        own = spectrum.shape[axis]
        if count != own:
            place = torch.fft.fftfreq(count, dtype=torch.float64) * own
            low = place.floor()
            part = (place - low).to(spectrum).view([-1, 1] if axis == -2 else [-1])
            nearest = [((low + at).long() % own).to(spectrum.device) for at in (0, 1)]
            below, above = (spectrum.index_select(axis, indices).log() for indices in nearest)
            spectrum = torch.lerp(below, above, part).exp()
    return spectrum


def filtered(latents: Tensor, gain: Tensor) -> Tensor:
    """Latents (B, C, h, w) with each frequency times `gain` (C, h, w), which is equal at opposite frequencies."""
    return torch.fft.ifft2(torch.fft.fft2(latents, norm="ortho") * gain, norm="ortho").real


def save_spectrum(spectrum: Tensor, folder: Path) -> None:
    """Put a spectrum beside a model's weights."""
    save_file({"power": spectrum.contiguous()}, folder / FILE)


def load_spectrum(folder: Path) -> Tensor | None:
    """The spectrum beside a model's weights, float32 (C, h, w); None where none was measured."""
    return load_file(folder / FILE)["power"] if (folder / FILE).exists() else None
