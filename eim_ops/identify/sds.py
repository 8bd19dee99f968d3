"""The image half of a direction by delta denoising (DDS): the Hessian taken as the identity."""

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.identify.draws import SourceDraws
from eim_ops.joint import Conditioning, widened


def dds_direction(backbone: Backbone, drawn: SourceDraws, target: Conditioning) -> Tensor:
    """n_x = -E[sigma dv], dv = v(x, sigma, c_tgt) - v(x, sigma, c_src), the same noise in both terms.

    Returns (B, C, h, w). `-sigma dv` is the change of the denoised image z0_hat = x - sigma v, so the length is that of
    a difference of clean latents. Costs 1 evaluation a draw and row. Source: DDS; the weight is ours.
    """
    clean = drawn.clean
    total = torch.zeros_like(widened(clean))
    for draw, sigma in enumerate(drawn.sigmas):
        change = backbone.velocity(drawn.point(draw), sigma, target) - drawn.velocities[:, draw]
        total -= sigma * change.to(total.dtype)
    return (total / len(drawn.sigmas)).to(clean.dtype)
