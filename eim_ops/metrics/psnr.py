"""Peak signal-to-noise ratio, the one that all figures are in."""

import torch
from torch import Tensor

_MOST = 100.0


def psnr(images: Tensor, reference: Tensor, peak: float) -> Tensor:
    """dB of each row of two float (B, ...); `peak` is the width of their range: 2 of [-1, 1], 255 of bytes.

    At most 100, which equal images get.
    """
    error = (images - reference).square().flatten(1).mean(1)
    return (10 * torch.log10(peak**2 / error)).clamp(max=_MOST)
