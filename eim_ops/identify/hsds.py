"""The image half of a direction by Hessian Score Distillation Sampling (HSDS), as defined here (ours).

With the residual r_c(z) = v(a z + sigma eps, sigma, c) - (eps - z) and its Jacobian J = I + a dv/dx, one damped
Gauss-Newton step on E || r_tgt(z0 + n) - r_src(z0) ||^2:

    n_x = argmin_n  sum_m w_m || J_m n + dv_m ||^2 + lam || n ||_W^2 ,   w = sigma^2 ,

over draws m of (sigma, eps). Where images are Gaussian with one covariance, dv = -J d_mu, and n_x is d_mu exactly,
whatever the covariance; DDS takes J for the identity and leaks into what correlates with the change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.cost import HELD_OUT_DRAWS
from eim_ops.identify.draws import SourceDraws
from eim_ops.identify.spectrum import filtered, floored, resampled
from eim_ops.joint import Conditioning, Rows, per_row, widened
from eim_ops.method import Method
from eim_ops.noise import levels

_CONVERGED = 1e-6
"""Of the first gradient: a row that is below it stays as it is."""


@dataclass(frozen=True)
class HsdsDirection(Rows):
    """image: n_x (B, C, h, w), float32 or wider. accepted: (B,), False where DDS is given instead. residual,
    dds_residual: (B,) of HSDS and of the scaled DDS direction on held-out draws, in units of no shift at all.
    iterations: (B,), the solver's steps. objective: (B, iterations + 1), the solver's own quadratic at each step."""

    image: Tensor
    accepted: Tensor
    residual: Tensor
    dds_residual: Tensor
    iterations: Tensor
    objective: Tensor


@dataclass(frozen=True)
class _Draw:
    """One (sigma, eps) with the source's point on it; `J` and its transpose act on differences of clean latents."""

    backbone: Backbone
    x: Tensor
    sigma: Tensor
    conditioning: Conditioning

    def forward(self, n: Tensor) -> Tensor:
        """sigma J n."""
        moved = self.backbone.jvp(self.x, self.sigma, self.conditioning, n.to(self.x.dtype))
        return self.sigma * (n + (1 - self.sigma) * moved)

    def transposed(self, u: Tensor) -> Tensor:
        """sigma J^T u."""
        moved = self.backbone.vjp(self.x, self.sigma, self.conditioning, u.to(self.x.dtype))
        return self.sigma * (u + (1 - self.sigma) * moved)


def hsds_levels(method: Method) -> Tensor:
    """float32 (draws + 2,): the noise levels of the solver, and then those of its acceptance test."""
    return torch.cat([levels(draws, method.sigma_max) for draws in (method.draws, HELD_OUT_DRAWS)])


def hsds_direction(backbone: Backbone, drawn: SourceDraws, target: Conditioning, method: Method) -> HsdsDirection:
    """The HSDS direction of each row, or DDS's where HSDS does no better on draws that it has not seen.

    drawn: at `hsds_levels(method)`. The solver starts from the DDS direction at its best length and takes `iterations`
    steps of CGLS, preconditioned and damped by the backbone's spectrum (plain where it has none). Evaluations a row:
    draws (3 + 5 iterations) + 6. Draws are gone through one after another, so memory is that of one batch.
    """
    clean = drawn.clean
    sigmas = drawn.sigmas[: method.draws]
    curved = target if method.jacobian == "target" else drawn.conditioning
    draws, offsets = [], []
    dds = torch.zeros_like(widened(clean))
    for draw, sigma in enumerate(sigmas):
        x = drawn.point(draw)
        change = (backbone.velocity(x, sigma, target) - drawn.velocities[:, draw]).to(dds.dtype)
        dds -= sigma * change / method.draws
        draws.append(_Draw(backbone, x, sigma, curved))
        offsets.append(sigma * change)
    start, misfit = _best_length(dds, draws, offsets)
    power = None if backbone.spectrum is None else resampled(floored(backbone.spectrum), clean.shape[-2:])
    gain, weight = _preconditioner(power, sigmas.to(dds.dtype), method.damping * method.draws)
    image, iterations, objective = _cgls(start, misfit, draws, gain, weight, method.iterations)
    residual, dds_residual = _held_out_residuals(backbone, drawn, target, (image, start))
    accepted = residual < dds_residual
    chosen = torch.where(per_row(accepted, image).bool(), image, start)
    return HsdsDirection(chosen.to(clean.dtype), accepted, residual, dds_residual, iterations, objective)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), torch.zeros_like(below))


def _best_length(direction: Tensor, draws: Sequence[_Draw], offsets: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The multiple of `direction` that fits best, row by row, and what it leaves unexplained of each draw."""
    images = [draw.forward(direction) for draw in draws]
    fit = -sum((_dot(image, offset) for image, offset in zip(images, offsets, strict=True)), torch.zeros(()))
    length = _ratio(fit.to(direction), sum((_dot(image, image) for image in images), torch.zeros(())).to(direction))
    scale = per_row(length, direction)
    return scale * direction, [-offset - scale * image for image, offset in zip(images, offsets, strict=True)]


def _preconditioner(
    power: Tensor | None, sigmas: Tensor, damping: float
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(approximate inverse of the normal equations, lam W) as maps of latents.

    power: S, (C, h, w). For Gaussian latents of it sigma J is sigma^2 / (a^2 S + sigma^2) at each frequency, and
    W = 1 / S.
    """
    if power is None:
        return lambda s: s, lambda n: damping * n
    power = power.to(sigmas)
    level = sigmas.view(-1, 1, 1, 1)
    curvature = (level**2 / ((1 - level) ** 2 * power + level**2)).square().sum(0)
    return lambda s: filtered(s, 1 / (curvature + damping / power)), lambda n: filtered(n, damping / power)


def _cgls(
    start: Tensor, misfit: list[Tensor], draws: Sequence[_Draw],
    precondition: Callable[[Tensor], Tensor], damp: Callable[[Tensor], Tensor], iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Preconditioned CGLS, each row on its own: (solution, steps taken (B,), objective (B, steps + 1)).

    Every step lowers sum ||misfit||^2 + lam ||n||_W^2. A row whose gradient has vanished stays as it is.
    """
    n, direction = start, torch.zeros_like(start)
    misfit = list(misfit)
    steps = torch.zeros(len(n), dtype=torch.int64, device=n.device)
    before = first = torch.zeros(len(n), dtype=n.dtype, device=n.device)
    objective = [_objective(misfit, n, damp)]
    for iteration in range(iterations):
        gradient = -damp(n)
        for draw, left in zip(draws, misfit, strict=True):
            gradient = gradient + draw.transposed(left)
        scaled = precondition(gradient)
        size = _dot(gradient, scaled)
        first = size if iteration == 0 else first
        running = size > _CONVERGED**2 * first
        direction = scaled + per_row(_ratio(size, before), n) * direction
        images = [draw.forward(direction) for draw in draws]
        curvature = _dot(direction, damp(direction))
        for image in images:
            curvature = curvature + _dot(image, image)
        length = per_row(torch.where(running, _ratio(size, curvature), 0.0), n)
        n = n + length * direction
        misfit = [left - length * image for left, image in zip(misfit, images, strict=True)]
        steps += running
        before = size
        objective.append(_objective(misfit, n, damp))
    return n, steps, torch.stack(objective, dim=1)


def _objective(misfit: Sequence[Tensor], n: Tensor, damp: Callable[[Tensor], Tensor]) -> Tensor:
    total = _dot(n, damp(n))
    for left in misfit:
        total = total + _dot(left, left)
    return total


def _held_out_residuals(
    backbone: Backbone, drawn: SourceDraws, target: Conditioning, shifts: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """sum sigma^2 || r_tgt(z0 + n) - r_src(z0) ||^2 of each shift n, over that of no shift; (B,) each.

    Not the quadratic that the solver lowers but the residual itself, on noise that it has not seen. 3 evaluations a
    draw and row with two shifts.
    """
    candidates = [torch.zeros_like(shifts[0]), *shifts]
    totals = [torch.zeros(len(drawn), dtype=shifts[0].dtype, device=shifts[0].device) for _ in candidates]
    for draw in range(len(drawn.sigmas) - HELD_OUT_DRAWS, len(drawn.sigmas)):
        sigma = drawn.sigmas[draw]
        from_source = drawn.velocities[:, draw].to(shifts[0].dtype)
        for total, n in zip(totals, candidates, strict=True):
            moved = drawn.point(draw, (1 - sigma) * n)
            left = sigma * (backbone.velocity(moved, sigma, target) - from_source + n)
            total += _dot(left, left)
    return tuple(_ratio(total, totals[0]) for total in totals[1:])
