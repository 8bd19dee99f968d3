import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.encode import encode, invert
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Direction, JointLatent
from eim_ops.manipulate import manipulate, sample
from eim_ops.method import Method
from tests.eim_ops.gaussian_world import GaussianBackbone, mean_conditioning


def gaussian_pair(
    seed: int, sigma_max: float, fixed_point: bool = True
) -> tuple[GaussianBackbone, JointLatent, torch.Tensor]:
    """A joint latent of two images in the Gaussian world, and the true mean shift of the edit."""
    world = GaussianBackbone()
    mean, shift, eps = torch.randn((3, 2, 2, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clean = mean + world.spread * eps
    conditioning = mean_conditioning(mean)
    sigmas = world.grid(12) * sigma_max
    noisy = invert(world, clean, conditioning, sigmas, fixed_point)
    residual = clean - sample(world, noisy, conditioning, sigmas)
    return world, JointLatent(clean, noisy, residual, sigmas, conditioning), shift


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma_max=st.floats(0.2, 1.0), strength=st.floats(-1.5, 2.0))
def test_joint_edit_by_the_true_shift_moves_the_image_by_exactly_that(
    seed: int, sigma_max: float, strength: float
) -> None:
    world, joint, shift = gaussian_pair(seed, sigma_max)
    target = mean_conditioning(joint.conditioning.tokens.view_as(shift) + shift)
    direction = Direction(shift, text_direction(joint.conditioning, target))
    edited = manipulate(world, joint, direction, torch.full((2,), strength, dtype=torch.float64))
    assert torch.allclose(edited, joint.clean + strength * shift, atol=1e-6)


def test_fixed_point_inversion_drifts_less_than_euler() -> None:
    drift = {kind: gaussian_pair(0, 1.0, kind)[1].residual.norm() for kind in (True, False)}
    assert drift[True] < 0.5 * drift[False]


def tiny_joint(backbone: Sd3Backbone) -> tuple[JointLatent, Direction]:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    joint = encode(backbone, images, ["a portrait with deep frown"] * 2, Method(steps=4))
    target = backbone.encode_text(["a portrait with broad smile"] * 2)
    image = dds_direction(backbone, joint.clean, joint.conditioning, target, [1, 2], 2, 0.9)
    return joint, Direction(image, text_direction(joint.conditioning, target))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_strength_0_returns_the_source_and_small_strengths_tend_to_it(backbone: Sd3Backbone, guidance: float) -> None:
    joint, direction = tiny_joint(backbone)

    def change(strength: float) -> torch.Tensor:
        return manipulate(backbone, joint, direction, torch.full((2,), strength), guidance) - joint.clean

    whole = change(1.0).norm()
    assert whole > 1e-2
    assert change(0.0).norm() < 1e-4 * whole
    assert change(0.01).norm() < 0.03 * whole
    assert (change(0.02) - 2 * change(0.01)).norm() < 0.1 * change(0.02).norm()


def test_equal_prompts_give_a_zero_direction(backbone: Sd3Backbone) -> None:
    conditioning = backbone.encode_text(["a portrait with broad smile"])
    clean = torch.randn((1, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    assert not dds_direction(backbone, clean, conditioning, conditioning, [0], 3, 0.9).any()
    assert not text_direction(conditioning, conditioning).tokens.any()
