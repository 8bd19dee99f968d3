import pytest
import torch

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.encode import Solver, encode, inversion, invert
from eim_ops.joint import Coupling, Inversion
from eim_ops.method import Method
from eim_ops.noise import noised

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


def test_a_coupled_trajectory_lies_on_the_line_to_its_own_noise(backbone: Sd3Backbone) -> None:
    images = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    prompts = ["a portrait with broad smile"] * 3
    joint = encode(backbone, images, prompts, [5, 6, 5], Method(steps=3, trajectory="coupled", free_guidance=1.0))
    assert isinstance(joint.trajectory, Coupling)
    eps = joint.trajectory.eps
    assert torch.equal(eps[0], eps[2]) and not torch.equal(eps[0], eps[1]), "by the seed alone"
    assert not torch.equal(eps[0, 0], eps[0, 1]), "fresh at each level"
    for i, sigma in enumerate(joint.sigmas[:-1]):
        expected = backbone.velocity(noised(joint.clean, eps[:, i], sigma), sigma, joint.conditioning)
        assert torch.equal(joint.trajectory.velocities[:, i], expected)
