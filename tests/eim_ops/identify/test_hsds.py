"""HSDS in worlds where the right direction is known: it is the shift of the mean, whatever the covariance."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eim_ops.backbones.base import Backbone
from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning, power_law
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.identify import hsds
from eim_ops.identify.draws import draw_source
from eim_ops.identify.hsds import HsdsDirection, hsds_direction, hsds_levels
from eim_ops.identify.sds import dds_direction
from eim_ops.joint import Conditioning, per_row
from eim_ops.method import Method
from eim_ops.noise import levels, noise, noised

ROWS = 2


def blob(side: int, width: float) -> torch.Tensor:
    """A change in one place, float64 (1, side, side)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.exp(-((y - side * 0.4) ** 2 + (x - side * 0.6) ** 2) / (2 * width**2)).double()[None]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class NoisyJacobian(GaussianBackbone):
    """Each derivative is off by `error` of its length, each time in another direction."""

    error, calls = 0.0, 0

    def _off(self, right: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        wrong = randn(*right.shape, seed=1000 + self.calls)
        scale = self.error * right.flatten(1).norm(dim=1) / wrong.flatten(1).norm(dim=1)
        return right + per_row(scale, right) * wrong

    def jvp(self, *arguments: Any) -> torch.Tensor:
        return self._off(super().jvp(*arguments))

    def vjp(self, *arguments: Any) -> torch.Tensor:
        return self._off(super().vjp(*arguments))


def hsds_of(
    backbone: Backbone,
    clean: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    seeds: list[int],
    method: Method,
) -> HsdsDirection:
    """One target an image."""
    return hsds_direction(backbone, draw_source(backbone, clean, source, seeds, hsds_levels(method)), target, method)


def solve(
    world: GaussianBackbone, shift: torch.Tensor, preconditioned: bool = True, rows: int = ROWS, **method: object
) -> tuple[HsdsDirection, torch.Tensor]:
    """HSDS and DDS of an edit that shifts the mean by `shift`, around a random mean."""
    world.spectrum = world.power[0] if preconditioned else None
    mean = randn(rows, *shift.shape, seed=1)
    source, target = mean_conditioning(mean), mean_conditioning(mean + shift)
    clean, seeds = world.draw(mean, 2), list(range(rows))
    settings = Method(**{"sigma_max": 0.9, "draws": 4, "iterations": 4, "damping": 0.0, **method})  # type: ignore[arg-type]
    drawn = draw_source(world, clean, source, seeds, levels(settings.draws, settings.sigma_max))
    return hsds_of(world, clean, source, target, seeds, settings), dds_direction(world, drawn, target)


def off_over_on(direction: torch.Tensor, shift: torch.Tensor) -> float:
    """Length across the true shift over length along it; the worst row."""
    flat, unit = direction.flatten(1), (shift / shift.norm()).flatten()
    along = flat @ unit
    return float(((flat - along[:, None] * unit).norm(dim=1) / along.abs()).max())


def cosine(direction: torch.Tensor, shift: torch.Tensor) -> float:
    return float(torch.cosine_similarity(direction.flatten(1), shift.flatten()[None]).min())


def test_hsds_recovers_the_shift_in_a_natural_spectrum_in_one_iteration_where_dds_leaks() -> None:
    shift = blob(32, 0.75)
    found, dds = solve(GaussianBackbone(power_law((1, 32, 32), 3)), shift, iterations=1)
    assert off_over_on(dds, shift) == pytest.approx(0.39, abs=0.01)
    assert off_over_on(found.image, shift) < 1e-6
    assert torch.allclose(found.image, shift.expand_as(found.image), atol=1e-6), "in length as well"
    assert found.accepted.all()


@pytest.mark.parametrize("preconditioned", [True, False])
def test_hsds_recovers_the_shift_at_condition_100_in_4_iterations(preconditioned: bool) -> None:
    shift = randn(1, 16, 16)
    found, dds = solve(GaussianBackbone(conditioned((1, 16, 16), 100, 0)), shift, preconditioned)
    assert cosine(found.image, shift) > 0.999
    assert cosine(dds, shift) < 0.995
    assert (found.iterations <= 4).all()


def test_a_spectrum_of_square_latents_serves_oblong_ones() -> None:
    def power(shape: tuple[int, int]) -> torch.Tensor:
        y, x = (torch.fft.fftfreq(count, dtype=torch.float64) for count in shape)
        return (1 / (2.05 - torch.cos(6.2832 * y)[:, None] - torch.cos(6.2832 * x)[None]))[None]

    shift, world = randn(1, 12, 20), GaussianBackbone(power((12, 20)))
    mean = torch.zeros(1, 1, 12, 20, dtype=torch.float64)
    source, target = mean_conditioning(mean), mean_conditioning(mean + shift)
    off = []
    for spectrum in (power((16, 16)), None):
        world.spectrum = spectrum
        found = hsds_of(world, mean, source, target, [0], Method(draws=4, iterations=1, damping=0.0))
        off.append(off_over_on(found.image, shift))
    assert off[0] < 0.005 < 0.04 < off[1]


def test_with_a_misfit_spectrum_some_iterations_make_up_for_it() -> None:
    shift, world = blob(32, 0.75), GaussianBackbone(power_law((1, 32, 32), 3))
    mean = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    world.spectrum = power_law((1, 32, 32), 2)
    source, target = mean_conditioning(mean), mean_conditioning(mean + shift)
    ratios = [
        off_over_on(hsds_of(world, mean, source, target, [0], Method(iterations=steps, damping=0.0)).image, shift)
        for steps in (1, 3)
    ]
    assert ratios[1] < 0.05 < ratios[0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), condition=st.floats(1.5, 200))
def test_every_iteration_lowers_the_solvers_objective(seed: int, condition: float) -> None:
    world = GaussianBackbone(conditioned((1, 8, 8), condition, seed))
    found, _ = solve(world, randn(1, 8, 8, seed=seed), preconditioned=False, damping=1e-3, iterations=5)
    assert (found.objective.diff(dim=1) <= 1e-9 * found.objective[:, :1]).all()
    assert (found.objective[:, -1] < found.objective[:, 0]).all()


@given(seed=st.integers(0, 10**6))
def test_the_two_halves_of_the_normal_equations_belong_together(seed: int) -> None:
    """<d, J^T J d> = ||J d||^2 for every draw."""
    world = GaussianBackbone(conditioned((1, 8, 8), 30, seed))
    x, d = randn(2, 1, 8, 8, seed=seed), randn(2, 1, 8, 8, seed=seed + 1)
    draw = hsds._Draw(world, x, torch.tensor(0.6, dtype=torch.float64), mean_conditioning(x * 0))
    moved = draw.forward(d)
    assert torch.allclose((d * draw.transposed(moved)).sum((1, 2, 3)), moved.square().sum((1, 2, 3)))


def test_strong_damping_gives_the_gradients_direction() -> None:
    """As lam grows, n tends to -(1 / lam) sum w J^T dv."""
    world, shift = GaussianBackbone(conditioned((1, 8, 8), 30, 0)), randn(1, 8, 8)
    found, _ = solve(world, shift, preconditioned=False, damping=1e3, iterations=3)
    mean = randn(ROWS, 1, 8, 8, seed=1)
    source, target = mean_conditioning(mean), mean_conditioning(mean + shift)
    clean, gradient = world.draw(mean, 2), torch.zeros(ROWS, 1, 8, 8, dtype=torch.float64)
    for sigma, eps in zip(levels(4, 0.9).double(), noise([0, 1], 4, (1, 8, 8)).double(), strict=True):
        x = noised(clean, eps, sigma)
        change = sigma**2 * (world.velocity(x, sigma, target) - world.velocity(x, sigma, source))
        gradient -= change + (1 - sigma) * world.vjp(x, sigma, target, change)
    # Where HSDS ends is compared, not what it chose: so weak a shift is never accepted.
    assert not found.accepted.any()
    solved = _unaccepted(world, clean, source, target)
    assert torch.cosine_similarity(solved.flatten(1), gradient.flatten(1)).min() > 0.9999


def _unaccepted(
    world: GaussianBackbone, clean: torch.Tensor, source: Conditioning, target: Conditioning
) -> torch.Tensor:
    """The solver's own answer under strong damping, whatever the acceptance test says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hsds, "_held_out_residuals", lambda *_: (torch.zeros(ROWS), torch.ones(ROWS)))
        method = Method(sigma_max=0.9, draws=4, iterations=3, damping=1e3)
        return hsds_of(world, clean, source, target, [0, 1], method).image


def test_with_the_identity_for_jacobian_hsds_is_dds(monkeypatch: pytest.MonkeyPatch) -> None:
    """J := I leaves n = -sum w dv / sum w, w = sigma^2: with one draw DDS's direction at its best length."""
    monkeypatch.setattr(GaussianBackbone, "jvp", lambda self, x, sigma, c, tangent: torch.zeros_like(tangent))
    monkeypatch.setattr(GaussianBackbone, "vjp", lambda self, x, sigma, c, cotangent: torch.zeros_like(cotangent))
    found, dds = solve(GaussianBackbone(conditioned((1, 8, 8), 30, 0)), randn(1, 8, 8), False, draws=1)
    assert torch.cosine_similarity(found.image.flatten(1), dds.flatten(1)).min() > 1 - 1e-9


def test_a_wrong_jacobian_makes_the_acceptance_test_choose_dds_where_dds_is_nearly_right() -> None:
    shift, world = randn(1, 16, 16), NoisyJacobian(conditioned((1, 16, 16), 1.3, 0))
    right, _ = solve(world, shift, preconditioned=False)
    assert right.accepted.all()
    world.error = 0.2
    wrong, dds = solve(world, shift, preconditioned=False)
    assert not wrong.accepted.any()
    assert (wrong.dds_residual < wrong.residual).all()
    assert torch.cosine_similarity(wrong.image.flatten(1), dds.flatten(1)).min() > 1 - 1e-9


@pytest.mark.parametrize("condition", [1.3, 3, 30])
@pytest.mark.parametrize("error", [0.05, 0.2, 0.4, 0.8])
def test_the_acceptance_test_chooses_what_is_nearer_to_the_true_shift(
    condition: float, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift, chosen = randn(1, 16, 16), []
    for verdict in (None, torch.zeros(ROWS), torch.ones(ROWS)):
        world = NoisyJacobian(conditioned((1, 16, 16), condition, 0))
        world.error = error
        if verdict is not None:  # the solver's answer, then DDS, whatever the residuals
            monkeypatch.setattr(hsds, "_held_out_residuals", lambda *_, v=verdict: (v, torch.full((ROWS,), 0.5)))
        chosen.append(solve(world, shift, preconditioned=False)[0].image - shift)
    taken, solved, fallen_back = (offset.flatten(1).norm(dim=1) for offset in chosen)
    assert torch.allclose(taken, torch.minimum(solved, fallen_back), rtol=0.05)


def test_equal_prompts_give_a_zero_direction_and_nothing_is_divided_by_zero() -> None:
    found, dds = solve(GaussianBackbone(power_law((1, 8, 8), 3)), torch.zeros(1, 8, 8, dtype=torch.float64))
    assert not found.image.any() and not dds.any()
    assert found.iterations.tolist() == [0, 0]


def test_evaluations_are_as_documented() -> None:
    world = GaussianBackbone(conditioned((1, 8, 8), 30, 0))
    solve(world, randn(1, 8, 8), preconditioned=False, draws=3, iterations=2)
    assert world.evaluations == ROWS * (2 * 3 + 3 * (4 + 5 * 2) + 8), "DDS's own, then HSDS's"


def test_rows_do_not_depend_on_their_neighbours(backbone: Sd3Backbone) -> None:
    prompts = ["a portrait with deep frown, red hair", "a portrait with broad smile, red hair"]
    source, target = (backbone.encode_text([prompt] * 3) for prompt in prompts)
    clean = randn(3, 8, 16, 16).float()
    method = Method(draws=2, iterations=2)

    def run(rows: torch.Tensor) -> HsdsDirection:
        return hsds_of(backbone, clean[rows], source, target, rows.tolist(), method)

    together, turned = run(torch.tensor([0, 1, 2])), run(torch.tensor([2, 0, 0]))
    assert torch.equal(together.image[2], turned.image[0])
    assert torch.equal(together.image[0], turned.image[1])
    assert together.image.abs().sum() > 0
