"""What identification needs of the source alone: the same for all targets of an image, so computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, Rows
from eim_ops.noise import noise, noised


@dataclass(frozen=True)
class SourceDraws(Rows):
    """Images at M noise levels with noise of their own, and the source's velocities there.

    clean: z0 (B, C, h, w). conditioning: of the source prompts. eps: (B, M, C, h, w). velocities: v(x_m, sigma_m,
    c_src), same shape. sigmas: (M,), for all rows.
    """

    clean: Tensor
    conditioning: Conditioning
    eps: Tensor
    velocities: Tensor
    sigmas: Tensor = field(metadata={"shared": True})

    def point(self, draw: int, shift: Tensor | None = None) -> Tensor:
        """x_m, moved by `shift`, all (B, C, h, w)."""
        return noised(self.clean, self.eps[:, draw], self.sigmas[draw], shift)


def draw_source(
    backbone: Backbone, clean: Tensor, source: Conditioning, seeds: Sequence[int], sigmas: Tensor
) -> SourceDraws:
    """The draws of images z0 (B, C, h, w) at these levels, (M,): M evaluations a row."""
    sigmas = sigmas.to(clean)
    eps = noise(seeds, len(sigmas), clean.shape[1:]).to(clean).transpose(0, 1).contiguous()
    velocities = [
        backbone.velocity(noised(clean, eps[:, draw], sigma), sigma, source) for draw, sigma in enumerate(sigmas)
    ]
    return SourceDraws(clean, source, eps, torch.stack(velocities, dim=1), sigmas)
