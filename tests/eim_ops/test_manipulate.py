import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.encode import coupling, encode, inversion
from eim_ops.identify.draws import draw_source
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Conditioning, Direction, FreeGuidance, JointLatent
from eim_ops.manipulate import manipulate
from eim_ops.method import Method, TrajectoryKind
from eim_ops.noise import levels
from eim_ops.peers.flowedit import FlowEditSettings, flowedit

SHAPE = (2, 2, 4, 4)
TRAJECTORIES: tuple[TrajectoryKind, ...] = ("fixed_point", "midpoint", "euler", "coupled")


def gaussian_joint(
    seed: int, sigma_max: float, kind: TrajectoryKind
) -> tuple[GaussianBackbone, JointLatent, Direction]:
    """Two images in the Gaussian world, and an edit by the true shift of the mean in both halves."""
    world = GaussianBackbone(conditioned(SHAPE[1:], 20, 0))
    mean, shift = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clean, source = world.draw(mean, seed), mean_conditioning(mean)
    sigmas = world.grid(12) * sigma_max
    if kind == "coupled":
        joint = JointLatent(
            clean, source, coupling(world, clean, source, sigmas, [seed, seed + 1], "antithetic"), sigmas
        )
    else:
        joint = JointLatent(clean, source, inversion(world, clean, source, sigmas, kind), sigmas)
    return world, joint, Direction(shift, text_direction(source, mean_conditioning(mean + shift)))


@pytest.mark.parametrize("kind", TRAJECTORIES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma_max=st.floats(0.2, 1.0), strength=st.floats(-1.5, 2.0))
def test_joint_edit_by_the_true_shift_moves_the_image_by_exactly_that(
    kind: TrajectoryKind, seed: int, sigma_max: float, strength: float
) -> None:
    world, joint, direction = gaussian_joint(seed, sigma_max, kind)
    edited = manipulate(world, joint, direction, torch.full((2,), strength, dtype=torch.float64))
    assert torch.allclose(edited, joint.clean + strength * direction.image, atol=1e-5)


def test_the_text_half_alone_falls_short_of_the_shift_unless_all_noise_is_put_on() -> None:
    for sigma_max, whole in ((0.5, False), (1.0, True)):
        world, joint, direction = gaussian_joint(0, sigma_max, "coupled")
        text_only = Direction(torch.zeros_like(direction.image), direction.text)
        moved = manipulate(world, joint, text_only, torch.ones(2, dtype=torch.float64)) - joint.clean
        assert torch.allclose(moved, direction.image, atol=1e-5) is whole


class StraightWorld(GaussianBackbone):
    """The velocity is the prompt's own, the same everywhere."""

    def _velocity(self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return conditioning.tokens[:, 0].unflatten(1, latents.shape[1:])


@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_in_half_precision_steps_too_small_to_show_alone_add_up(kind: TrajectoryKind) -> None:
    world = StraightWorld(torch.ones(SHAPE[1:], dtype=torch.bfloat16))
    clean, sigmas = torch.ones(SHAPE, dtype=torch.bfloat16), torch.linspace(0.9, 0, 201)
    source, target = mean_conditioning(-clean / 4), mean_conditioning(-clean / 2)
    if kind == "coupled":
        joint = JointLatent(clean, source, coupling(world, clean, source, sigmas, [0, 1], "antithetic"), sigmas)
    else:
        found = inversion(world, clean, source, sigmas, kind)
        assert torch.allclose(found.noisy, clean * (1 - 0.9 / 4), atol=4e-3)
        joint = JointLatent(clean, source, found, sigmas)
    direction = Direction(torch.zeros_like(clean), text_direction(source, target))
    for strength in (0.0, 0.1, 1.0):
        edited = manipulate(world, joint, direction, torch.full((2,), strength))
        assert torch.allclose(edited, clean * (1 + strength * 0.9 / 4), rtol=0, atol=4e-3)
        assert edited.dtype == torch.bfloat16


class LinearWorld(GaussianBackbone):
    """The velocity is the latent itself."""

    def _velocity(self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return latents


def test_in_half_precision_the_model_meets_a_difference_far_below_the_rounding_of_its_noisy_points() -> None:
    world = LinearWorld(torch.ones(1, 16, 16, dtype=torch.bfloat16))
    clean, sigmas = torch.zeros(2, 1, 16, 16, dtype=torch.bfloat16), torch.linspace(0.9, 0, 51)
    source = mean_conditioning(clean)
    joint = JointLatent(clean, source, coupling(world, clean, source, sigmas, [0, 1], "antithetic"), sigmas)
    direction = Direction(torch.full_like(clean, 0.01), text_direction(source, source))
    edited = manipulate(world, joint, direction, torch.ones(2))
    assert edited.float().mean() == pytest.approx(0.001 * (1 - 0.9 / 50) ** 50, rel=0.1)


def tiny_joint(
    backbone: Sd3Backbone, kind: TrajectoryKind, free_guidance: float = 1.0
) -> tuple[JointLatent, Direction]:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    method = Method(steps=4, sigma_max=0.9, trajectory=kind, free_guidance=free_guidance)
    joint = encode(backbone, images, ["a portrait with deep frown"] * 2, [1, 2], method)
    target = backbone.encode_text(["a portrait with broad smile"] * 2)
    drawn = draw_source(backbone, joint.clean, joint.conditioning, [1, 2], levels(2, 0.9))
    return joint, Direction(dds_direction(backbone, drawn, target), text_direction(joint.conditioning, target))


@pytest.mark.parametrize("kind", TRAJECTORIES)
@pytest.mark.parametrize(("guidance", "free_guidance"), [(1.0, 1.0), (3.0, 1.0), (1.25, 1.25)])
def test_strength_0_returns_the_source_and_small_strengths_tend_to_it_linearly(
    backbone: Sd3Backbone, guidance: float, free_guidance: float, kind: TrajectoryKind
) -> None:
    joint, direction = tiny_joint(backbone, kind, free_guidance)

    def change(strength: float) -> torch.Tensor:
        return manipulate(backbone, joint, direction, torch.full((2,), strength), guidance) - joint.clean

    whole = change(1.0).norm()
    assert whole > 1e-2
    assert change(0.0).norm() < 3e-4 * whole  # float noise, which differs between processors
    assert change(0.01).norm() < 0.03 * whole
    assert (change(0.02) - 2 * change(0.01)).norm() < 0.1 * change(0.02).norm()


@pytest.mark.parametrize(
    ("kind", "guidance", "free_guidance", "cost"),
    [("fixed_point", 1.0, 1.0, 4), ("coupled", 1.0, 1.0, 4), ("coupled", 3.0, 1.0, 8), ("coupled", 3.0, 2.0, 10)],
)
def test_a_decode_costs_its_steps_as_much_for_guidance_and_one_for_each_step_with_free_guidance(
    backbone: Sd3Backbone, kind: TrajectoryKind, guidance: float, free_guidance: float, cost: int
) -> None:
    joint, direction = tiny_joint(backbone, kind, free_guidance)
    before = backbone.evaluations
    manipulate(backbone, joint, direction, torch.ones(2), guidance)
    assert backbone.evaluations - before == 2 * cost


def test_equal_prompts_give_a_zero_direction(backbone: Sd3Backbone) -> None:
    conditioning = backbone.encode_text(["a portrait with broad smile"])
    clean = torch.randn((1, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    drawn = draw_source(backbone, clean, conditioning, [0], levels(3, 0.9))
    assert not dds_direction(backbone, drawn, conditioning).any()
    assert not text_direction(conditioning, conditioning).tokens.any()


def test_text_alone_with_free_guidance_and_independent_noise_is_flowedit_at_equal_guidances(
    backbone: Sd3Backbone,
) -> None:
    clean = backbone.encode_image(torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1)
    prompts = ("a portrait with deep frown", "a portrait with broad smile", "")
    source, target, empty = (backbone.encode_text([text] * 2) for text in prompts)
    sigmas, free = backbone.grid(4), FreeGuidance(empty, 2.0, steps=4)
    trajectory = coupling(backbone, clean, source, sigmas, [1, 2], "independent", free)
    direction = Direction(torch.zeros_like(clean), text_direction(source, target))
    edited = manipulate(backbone, JointLatent(clean, source, trajectory, sigmas, free), direction, torch.ones(2))
    settings = FlowEditSettings(steps=4, last=4, source_guidance=2.0, target_guidance=2.0)
    expected = flowedit(backbone, clean, source, target, empty, [1, 2], settings)
    assert (edited - expected).norm() < 1e-3 * (edited - clean).norm()


@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_free_guidance_takes_part_in_the_noisiest_steps_alone(
    backbone: Sd3Backbone, kind: TrajectoryKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, guided, velocity = backbone.encode_text([""]), list[float](), backbone.velocity

    def noting(x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        if torch.equal(conditioning.tokens[:1], empty.tokens):
            guided.append(float(sigma))
        return velocity(x, sigma, conditioning)

    monkeypatch.setattr(backbone, "velocity", noting)
    joint, direction = tiny_joint(backbone, kind, free_guidance=2.0)
    in_encoding, lowest = [*guided], float(joint.sigmas[2])
    guided.clear()
    manipulate(backbone, joint, direction, torch.ones(2))
    assert guided == joint.sigmas[:2].tolist()
    assert len(in_encoding) == 2 * {"euler": 2, "coupled": 1}.get(kind, 3)
    assert min(in_encoding) >= lowest, "a step's own levels"
    assert kind == "midpoint" or set(in_encoding) == set(guided)
