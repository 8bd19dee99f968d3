"""Manipulate: move a joint latent along a direction and sample it back down."""

from itertools import pairwise

from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import (
    Conditioning,
    Coupling,
    Direction,
    FreeGuidance,
    Inversion,
    JointLatent,
    in_step,
    per_row,
    widened,
)
from eim_ops.noise import noised


def guided_velocity(
    backbone: Backbone, x: Tensor, sigma: Tensor, conditioning: Conditioning,
    base: Conditioning | None = None, guidance: float = 1.0, free: FreeGuidance | None = None,
) -> Tensor:  # fmt: skip
    """v(c_base) + w (v(c) - v(c_base)), all at x (B, C, h, w); with `free`, that sum under the family's own guidance.

    With the source as base it guides along the edit, so that an edit of strength 0 stays the source. Where the family's
    guidance is linear it is of each of the two alike; that of Qwen-Image is not, since it brings each token of the sum
    back to its length. One evaluation a row, one more where w is not 1, one more with `free`.
    """
    velocity = backbone.velocity(x, sigma, conditioning)
    if base is not None and guidance != 1.0:
        from_base = backbone.velocity(x, sigma, base)
        velocity = from_base + guidance * (velocity - from_base)
    if free is None:
        return velocity
    # Of the sum, not of its two terms: the same where it is linear, and the empty prompt's velocity enters once.
    return backbone.guide(velocity, backbone.velocity(x, sigma, free.empty), free.weight)


def sample(
    backbone: Backbone, noisy: Tensor, conditioning: Conditioning, sigmas: Tensor,
    base: Conditioning | None = None, guidance: float = 1.0, free: FreeGuidance | None = None,
) -> Tensor:  # fmt: skip
    """Euler steps from x at `sigmas[0]` (B, C, h, w) down to a clean latent; guidance as in `guided_velocity`.

    Steps are added up in float32 at least, whatever the model's dtype, and returned in that of `noisy`, which may be
    wider than the model's.
    """
    x = widened(noisy)
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        at, its_free = x.to(conditioning.tokens.dtype), in_step(free, i)
        velocity = guided_velocity(backbone, at, sigma, conditioning, base, guidance, its_free)
        x = x + (below - sigma).to(x.dtype) * velocity
    return x.to(noisy.dtype)


def manipulate(
    backbone: Backbone, joint: JointLatent, direction: Direction, strength: Tensor, guidance: float = 1.0
) -> Tensor:
    """Edited clean latents (B, C, h, w) at `strength` (B,), any sign. N evaluations a row, N more with guidance, and
    one more in each step with free guidance.

    Both halves move: c(alpha) = c_src + alpha n_c, and the image by alpha (1 - sigma_max) n_x at the top level.
    """
    conditioning = joint.conditioning + direction.text.scaled(strength)
    shift = per_row(strength * (1 - joint.sigmas[0]), direction.image) * direction.image
    if isinstance(joint.trajectory, Inversion):
        return _from_inversion(backbone, joint, joint.trajectory, conditioning, shift, guidance)
    return _coupled(backbone, joint, joint.trajectory, conditioning, shift, guidance)


def _from_inversion(
    backbone: Backbone,
    joint: JointLatent,
    inversion: Inversion,
    conditioning: Conditioning,
    shift: Tensor,
    guidance: float,
) -> Tensor:
    """Sample down from the shifted point. The inversion's residual is added back (ours): strength 0 returns z0."""
    start, base = widened(inversion.noisy) + shift, joint.conditioning
    edited = sample(backbone, start, conditioning, joint.sigmas, base, guidance, joint.free_guidance)
    return (edited + inversion.residual).to(joint.clean.dtype)


def _coupled(
    backbone: Backbone,
    joint: JointLatent,
    coupling: Coupling,
    conditioning: Conditioning,
    shift: Tensor,
    guidance: float,
) -> Tensor:
    """y += dsigma [v(x_i + y - z0, c(alpha)) - v_i]: y - z0 is the difference at the current noise level."""
    clean, base, free = joint.clean, joint.conditioning, joint.free_guidance
    y = widened(clean) + shift
    for i, (sigma, below) in enumerate(pairwise(joint.sigmas)):
        # To the bit the source's own point where y is z0, so that strength 0 meets the source's own velocity.
        x = noised(clean, coupling.eps[:, i], sigma, y - clean)
        velocity = guided_velocity(backbone, x, sigma, conditioning, base, guidance, in_step(free, i))
        y = y + (below - sigma).to(y.dtype) * (velocity - coupling.velocities[:, i])
    return y.to(clean.dtype)
