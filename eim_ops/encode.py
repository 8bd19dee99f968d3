"""Encode: image and prompt to one joint latent, with the source trajectory that an edit starts from."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone, GuidanceKind
from eim_ops.joint import Conditioning, Coupling, FreeGuidance, Inversion, JointLatent, in_step, widened
from eim_ops.manipulate import guided_velocity, sample
from eim_ops.method import Method, NoiseKind
from eim_ops.noise import noise, noised

Solver = Literal["euler", "fixed_point", "midpoint"]

_ALMOST_0 = 0.01
"""SD3.5 ends at .0089, or lower. Qwen-Image's end at .02 is meant."""


def invert(
    backbone: Backbone, clean: Tensor, conditioning: Conditioning, sigmas: Tensor, solver: Solver = "fixed_point",
    free: FreeGuidance | None = None,
) -> Tensor:  # fmt: skip
    """Integrate the ODE from z0 (B, C, h, w) up to `sigmas[0]` under `conditioning`. Steps with `free` cost twice.

    sigmas: (N + 1,) descending to 0. A sampler's step down is x_lo = x_hi + (s_lo - s_hi) v(x_hi, s_hi); undoing it
    needs v at the unknown x_hi. `euler` takes v(x_lo, s_hi), N evaluations. `fixed_point` then evaluates once more at
    the x_hi so found, 2 N: it comes back nearest to z0. `midpoint` follows the ODE itself to second order, 2 N: its
    noise is the truest, but a sampler by Euler steps leads elsewhere. Steps are added up in float32, as `sample` does.
    Source: method, 'Encode'.
    """

    def velocity(at: Tensor, sigma: Tensor, step: int) -> Tensor:
        return guided_velocity(backbone, at.to(clean.dtype), sigma, conditioning, free=in_step(free, step))

    x = widened(clean)
    for i, (high, low) in reversed([*enumerate(pairwise(sigmas))]):
        up = (high - low).to(x.dtype)
        if solver == "midpoint":
            middle = x + up / 2 * velocity(x, low, i)
            x = x + up * velocity(middle, (low + high) / 2, i)
            continue
        higher = x + up * velocity(x, high, i)
        if solver == "fixed_point":
            higher = x + up * velocity(higher, high, i)
        x = higher
    return x.to(clean.dtype)


def inversion(
    backbone: Backbone, clean: Tensor, conditioning: Conditioning, sigmas: Tensor, solver: Solver,
    free: FreeGuidance | None = None,
) -> Inversion:  # fmt: skip
    """The ODE's point at sigma_max, and what sampling it back misses of z0. `invert`'s evaluations and N more."""
    noisy = invert(backbone, clean, conditioning, sigmas, solver, free)
    returned = sample(backbone, widened(noisy), conditioning, sigmas, free=free)
    return Inversion(noisy, clean - returned)


def coupling_noise(clean: Tensor, seeds: Sequence[int], levels: int, kind: NoiseKind) -> Tensor:
    """eps of a coupled trajectory, (B, levels, C, h, w) like `clean`; row i depends on seeds[i] alone.

    Independent noise is FlowEdit's: errors of one noise don't add up over the levels. Antithetic noise (ours) has a
    fresh draw for each two levels, and its negative for the second: what is odd in the noise cancels, to first order
    where the two steps are of one length and one guidance.
    """
    if kind == "independent":
        eps = noise(seeds, levels, clean.shape[1:])
    else:
        fresh = noise(seeds, (levels + 1) // 2, clean.shape[1:])
        eps = torch.stack([fresh, -fresh], dim=1).flatten(0, 1)[:levels]
    return eps.to(clean).transpose(0, 1).contiguous()


def coupling(
    backbone: Backbone, clean: Tensor, conditioning: Conditioning, sigmas: Tensor, seeds: Sequence[int],
    kind: NoiseKind, free: FreeGuidance | None = None,
) -> Coupling:  # fmt: skip
    """Noise for each level, and the source velocities there: N evaluations, and those of `free`. All strengths share
    them."""
    eps = coupling_noise(clean, seeds, len(sigmas) - 1, kind)
    velocities = [
        guided_velocity(backbone, noised(clean, eps[:, i], sigma), sigma, conditioning, free=in_step(free, i))
        for i, sigma in enumerate(sigmas[:-1])
    ]
    return Coupling(eps, torch.stack(velocities, dim=1))


def check_free_guidance(method: Method, kind: GuidanceKind) -> None:
    """Raises ValueError for classifier-free guidance of a model that isn't made for it."""
    if method.free_guidance != 1 and kind != "true":
        mend = "; its own scale is loading.embedded_guidance" if kind == "embedded" else ""
        raise ValueError(
            f"method.free_guidance is {method.free_guidance}, but the model's guidance is {kind}: set it to 1{mend}. "
            "method.guidance, along the edit, works with every model"
        )


def grid_of(backbone: Backbone, clean: Tensor, method: Method) -> Tensor:
    """The sigmas of an edit of these latents, (steps + 1,), from sigma_max down to 0.

    SD3's own grid ends with a step from almost 0 to 0, which costs an evaluation and moves nothing: it is left out, and
    the others are `steps`.
    """
    shape, steps = clean.shape[-2:], method.steps
    sigmas = backbone.grid(steps, shape)
    if steps > 1 and _ends_in_nothing(sigmas):
        sigmas = backbone.grid(steps + 1, shape)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    bend = method.grid_shift
    return bend * sigmas / (1 + (bend - 1) * sigmas) * method.sigma_max


def _ends_in_nothing(sigmas: Tensor) -> bool:
    """Whether the last level is no part of an even grid, and almost 0."""
    return bool(sigmas[-2] < _ALMOST_0 and sigmas[-2] < (sigmas[-3] - sigmas[-2]) / 2)


def free_guidance(backbone: Backbone, method: Method, rows: int) -> FreeGuidance | None:
    """The method's classifier-free guidance for a batch; None where it has none. Raises ValueError as
    `check_free_guidance`."""
    if method.free_guided_steps == 0:
        return None
    check_free_guidance(method, backbone.guidance_kind)
    return FreeGuidance(backbone.encode_text([""] * rows), method.free_guidance, method.free_guided_steps)


def encode(
    backbone: Backbone, images: Tensor, prompts: Sequence[str], seeds: Sequence[int], method: Method
) -> JointLatent:
    """Images (B, 3, H, W) in [-1, 1] and their source prompts to a joint latent.

    Evaluations a row: N coupled, 2 N by Euler, 3 N by fixed point or midpoint; twice that in steps with free guidance.
    Only the coupled form uses `seeds`.
    """
    clean = backbone.encode_image(images)
    conditioning = backbone.encode_text(prompts)
    sigmas = grid_of(backbone, clean, method)
    free = free_guidance(backbone, method, len(prompts))
    trajectory: Inversion | Coupling
    if method.trajectory == "coupled":
        trajectory = coupling(backbone, clean, conditioning, sigmas, seeds, method.noise, free)
    else:
        trajectory = inversion(backbone, clean, conditioning, sigmas, method.trajectory, free)
    return JointLatent(clean, conditioning, trajectory, sigmas, free)
