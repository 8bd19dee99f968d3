"""The mean power spectrum of a backbone's latents: how much they vary at each frequency.

HSDS is preconditioned and damped by it. It is measured once from images and kept beside the model's weights.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "spectrum.safetensors"
_FLOOR = 1e-3


def measure_spectrum(latents: Tensor) -> Tensor:
    """Variance at each frequency of the orthonormal FFT, over images: latents (N, C, h, w) to float32 (C, h, w).

    Raises ValueError for fewer than two images.
    """
    if len(latents) < 2:
        raise ValueError("a spectrum is a variance over images; give at least two, hundreds for a smooth one")
    centred = torch.fft.fft2((latents - latents.mean(0)).double(), norm="ortho")
    return (centred.real**2 + centred.imag**2).mean(0).float()


def floored(spectrum: Tensor) -> Tensor:
    """The spectrum with nothing below a thousandth of its mean: what hardly ever varies is damped, not forbidden."""
    return spectrum.clamp(min=_FLOOR * float(spectrum.mean()))


def filtered(latents: Tensor, gain: Tensor) -> Tensor:
    """Latents (B, C, h, w) with each frequency times `gain` (C, h, w), which is equal at opposite frequencies."""
    return torch.fft.ifft2(torch.fft.fft2(latents, norm="ortho") * gain, norm="ortho").real


def save_spectrum(spectrum: Tensor, folder: Path) -> None:
    """Put a spectrum beside a model's weights."""
    save_file({"power": spectrum.contiguous()}, folder / FILE)


def load_spectrum(folder: Path) -> Tensor | None:
    """The spectrum beside a model's weights, float32 (C, h, w); None where none was measured."""
    return load_file(folder / FILE)["power"] if (folder / FILE).exists() else None
