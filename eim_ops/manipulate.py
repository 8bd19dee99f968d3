"""Manipulate: move a joint latent along a direction and sample it back down."""

from itertools import pairwise

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, Direction, JointLatent, per_row


def sample(
    backbone: Backbone, noisy: Tensor, conditioning: Conditioning, sigmas: Tensor,
    source: Conditioning | None = None, guidance: float = 1.0,
) -> Tensor:  # fmt: skip
    """Euler steps from x at `sigmas[0]` (B, C, h, w) down to a clean latent.

    With guidance w other than 1 the velocity is v(c_src) + w (v(c) - v(c_src)): along the edit, at one
    point, so that an edit of strength 0 is the source. That branch doubles the evaluations.
    """
    x = noisy
    for sigma, below in pairwise(sigmas):
        velocity = backbone.velocity(x, sigma, conditioning)
        if source is not None and guidance != 1.0:
            base = backbone.velocity(x, sigma, source)
            velocity = base + guidance * (velocity - base)
        x = x + (below - sigma).to(x.dtype) * velocity
    return x


@torch.no_grad()
def manipulate(
    backbone: Backbone, joint: JointLatent, direction: Direction, strength: Tensor, guidance: float = 1.0
) -> Tensor:
    """Edited clean latents (B, C, h, w) at `strength` (B,), any sign.

    Both halves move: c(alpha) = c_src + alpha n_c, and x(sigma_max) + alpha (1 - sigma_max) n_x. The
    inversion's residual is added back (ours), so strength 0 returns z0 itself and small strengths tend to it.
    """
    conditioning = joint.conditioning + direction.text.scaled(strength)
    shift = per_row(strength * (1 - joint.sigmas[0]), direction.image) * direction.image
    sampled = sample(backbone, joint.noisy + shift, conditioning, joint.sigmas, joint.conditioning, guidance)
    return sampled + joint.residual
