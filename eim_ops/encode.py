"""Encode: image and prompt to one joint latent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, JointLatent
from eim_ops.manipulate import sample
from eim_ops.method import Method


def invert(backbone: Backbone, clean: Tensor, conditioning: Conditioning, sigmas: Tensor, fixed_point: bool) -> Tensor:
    """Integrate the ODE from z0 (B, C, h, w) up to `sigmas[0]` under `conditioning`, without guidance.

    sigmas: (N + 1,) descending to 0. A sampler's step down is x_lo = x_hi + (s_lo - s_hi) v(x_hi, s_hi);
    undoing it needs v at the unknown x_hi. Euler takes v(x_lo, s_hi); `fixed_point` then evaluates once
    more at the x_hi so found (2 N evaluations, drift of second order). Source: method, 'Encode'.
    """
    x = clean
    for low in range(len(sigmas) - 1, 0, -1):
        sigma = sigmas[low - 1]
        step = (sigma - sigmas[low]).to(x.dtype)
        higher = x + step * backbone.velocity(x, sigma, conditioning)
        if fixed_point:
            higher = x + step * backbone.velocity(higher, sigma, conditioning)
        x = higher
    return x


@torch.no_grad()
def encode(backbone: Backbone, images: Tensor, prompts: Sequence[str], method: Method) -> JointLatent:
    """Images (B, 3, H, W) in [-1, 1] and their source prompts to a joint latent.

    Costs 3 N evaluations a row with fixed-point inversion (2 N with Euler): N of them sample the
    source back, to know the residual of the inversion.
    """
    clean = backbone.encode_image(images)
    conditioning = backbone.encode_text(prompts)
    sigmas = backbone.grid(method.steps) * method.sigma_max
    noisy = invert(backbone, clean, conditioning, sigmas, method.inversion == "fixed_point")
    returned = sample(backbone, noisy, conditioning, sigmas)
    return JointLatent(clean, noisy, clean - returned, sigmas, conditioning)
