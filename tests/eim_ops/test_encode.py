from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.encode import Solver, coupling_noise, encode, grid_of, inversion, invert
from eim_ops.joint import Coupling, Inversion
from eim_ops.method import Method, NoiseKind
from eim_ops.noise import noise, noised

SOLVERS: tuple[Solver, ...] = ("euler", "fixed_point", "midpoint")


def test_fixed_point_comes_back_nearest_to_the_source_and_midpoint_stays_nearest_to_the_ode() -> None:
    world = GaussianBackbone(conditioned((2, 4, 4), 20, 0))
    mean = torch.randn((2, 2, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean, source = world.draw(mean, 1), mean_conditioning(mean)
    found = {kind: inversion(world, clean, source, world.grid(12), kind) for kind in SOLVERS}
    drift = {kind: one.residual.norm() for kind, one in found.items()}
    assert drift["fixed_point"] < 0.5 * min(drift["euler"], drift["midpoint"])
    exact = invert(world, clean, source, world.grid(2000), "midpoint")
    off = {kind: (one.noisy - exact).norm() for kind, one in found.items()}
    assert off["midpoint"] < 0.5 * min(off["euler"], off["fixed_point"])


@pytest.mark.parametrize(("free_guidance", "share", "branches"), [(1.0, 1.0, 5), (2.0, 1.0, 10), (2.0, 0.5, 8)])
@pytest.mark.parametrize(("kind", "per_step"), [("euler", 2), ("fixed_point", 3), ("midpoint", 3), ("coupled", 1)])
def test_evaluations_of_each_trajectory_are_as_documented(
    backbone: Sd3Backbone, kind: str, per_step: int, free_guidance: float, share: float, branches: int
) -> None:
    before = backbone.evaluations
    joint = encode(
        backbone,
        torch.zeros(2, 3, 64, 64),
        ["a portrait"] * 2,
        [0, 1],
        Method(steps=5, trajectory=kind, free_guidance=free_guidance, free_guidance_share=share),  # type: ignore[arg-type]
    )
    assert backbone.evaluations - before == 2 * per_step * branches
    assert isinstance(joint.trajectory, Coupling if kind == "coupled" else Inversion)


@pytest.mark.parametrize("levels", [1, 4, 5])
def test_a_level_has_the_same_noise_however_many_follow(levels: int) -> None:
    clean = torch.zeros(2, 3, 5, 5)
    for kind in get_args(NoiseKind):
        assert torch.equal(
            coupling_noise(clean, [1, 2], levels, kind), coupling_noise(clean, [1, 2], 8, kind)[:, :levels]
        )
    independent = coupling_noise(clean, [1, 2], 8, "independent")
    assert torch.equal(independent, noise([1, 2], 8, (3, 5, 5)).transpose(0, 1))


def test_what_is_odd_in_the_noise_cancels_over_a_pair_of_levels() -> None:
    eps = coupling_noise(torch.zeros(3, 4, 8, 8), [1, 2, 3], 6, "antithetic")
    assert torch.equal(eps[:, 1::2], -eps[:, ::2])
    assert eps.std() == pytest.approx(1, abs=0.1)
    assert len({float(one) for one in eps[:, ::2, 0, 0, 0].flatten()}) == 9, "a draw of its own for each pair"


@pytest.mark.parametrize("kind", get_args(NoiseKind))
def test_an_encoding_has_the_noise_that_the_method_names(backbone: Sd3Backbone, kind: NoiseKind) -> None:
    joint = encode(backbone, torch.zeros(1, 3, 64, 64), ["a portrait"], [3], Method(steps=3, noise=kind))
    assert isinstance(joint.trajectory, Coupling)
    assert torch.equal(joint.trajectory.eps, coupling_noise(joint.clean, [3], 3, kind))


@given(steps=st.integers(2, 40), shift=st.floats(1.05, 10))
def test_a_shift_above_one_makes_the_grid_denser_at_the_top(steps: int, shift: float) -> None:
    world = GaussianBackbone(conditioned((1, 2, 2), 20, 0))
    clean = torch.zeros(1, 1, 2, 2)
    even, bent = (grid_of(world, clean, Method(steps=steps, sigma_max=1.0, grid_shift=its)) for its in (1.0, shift))
    assert torch.equal(even, world.grid(steps)), "1 leaves it as it is"
    assert bent[0] == 1 and bent[-1] == 0 and (bent.diff() < 0).all()
    assert (bent[1:-1] > even[1:-1]).all()


def test_a_coupled_trajectory_lies_on_the_line_to_its_own_noise(backbone: Sd3Backbone) -> None:
    images = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    prompts = ["a portrait with broad smile"] * 3
    joint = encode(backbone, images, prompts, [5, 6, 5], Method(steps=3, trajectory="coupled", free_guidance=1.0))
    assert isinstance(joint.trajectory, Coupling)
    eps = joint.trajectory.eps
    assert torch.equal(eps[0], eps[2]) and not torch.equal(eps[0], eps[1]), "by the seed alone"
    assert torch.equal(eps[:, 0], -eps[:, 1]), "the pair's other sign"
    assert not torch.equal(eps[0, 0].abs(), eps[0, 2].abs()), "fresh for the next pair"
    for i, sigma in enumerate(joint.sigmas[:-1]):
        expected = backbone.velocity(noised(joint.clean, eps[:, i], sigma), sigma, joint.conditioning)
        assert torch.equal(joint.trajectory.velocities[:, i], expected)
