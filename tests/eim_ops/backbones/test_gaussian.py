"""The exact backbone: its closed forms, and the derivatives that every backbone inherits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.base import Backbone
from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning, power_law
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.joint import Conditioning
from eim_ops.manipulate import sample

SHAPE = (1, 6, 6)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sigma=st.floats(0.05, 1.0), seed=st.integers(0, 10**6))
def test_the_velocity_is_the_posterior_mean_of_one_gaussian(sigma: float, seed: int) -> None:
    """Against the dense formula: with covariance C, E[z0 | x] = mu + a C (a^2 C + sigma^2)^-1 (x - a mu)."""
    power = conditioned(SHAPE, 50, 0)
    world = GaussianBackbone(power)
    pixels = torch.eye(36, dtype=torch.float64).view(36, *SHAPE)
    covariance = torch.fft.ifft2(power * torch.fft.fft2(pixels, norm="ortho"), norm="ortho").real.flatten(1)
    mean, x, a = randn(1, *SHAPE, seed=seed), randn(1, *SHAPE, seed=seed + 1), 1 - sigma
    centred = (x - a * mean).flatten()
    inside = a**2 * covariance + sigma**2 * torch.eye(36, dtype=torch.float64)
    clean = mean.flatten() + a * covariance @ torch.linalg.solve(inside, centred)
    expected = (x.flatten() - a * clean) / sigma - clean
    found = world.velocity(x, torch.tensor(sigma, dtype=torch.float64), mean_conditioning(mean))
    assert torch.allclose(found.flatten(), expected, atol=1e-9)


def test_sampling_from_noise_gives_the_worlds_own_mean_and_variance() -> None:
    world = GaussianBackbone(conditioned(SHAPE, 20, 0))
    mean = randn(1, *SHAPE).expand(4000, *SHAPE)
    with torch.no_grad():
        images = sample(world, randn(4000, *SHAPE, seed=1), mean_conditioning(mean), world.grid(100))
    spectrum = torch.fft.fft2(images - images.mean(0), norm="ortho").abs().square().mean(0)
    assert torch.allclose(images.mean(0), mean[0], atol=0.06)
    assert torch.allclose(spectrum, world.power[0], rtol=0.15)


def test_a_mixture_of_far_means_moves_to_the_nearer_one() -> None:
    world = GaussianBackbone(torch.full(SHAPE, 0.01, dtype=torch.float64))
    means = torch.stack([torch.full(SHAPE, -3.0), torch.full(SHAPE, 3.0)])[None].double()
    start = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    end = sample(world, start, mean_conditioning(means), world.grid(50) * 0.5)
    assert torch.allclose(end, means[:, 1], atol=0.3)


def test_components_of_one_place_and_covariance_are_one_gaussian() -> None:
    power, mean, x = conditioned(SHAPE, 10, 0), randn(2, *SHAPE), randn(2, *SHAPE, seed=1)
    one = GaussianBackbone(power).velocity(x, torch.tensor(0.6), mean_conditioning(mean))
    twice = mean_conditioning(torch.stack([mean, mean], dim=1))
    two = GaussianBackbone(torch.stack([power, power])).velocity(x, torch.tensor(0.6), twice)
    assert torch.allclose(one, two)


def test_an_unknown_prompt_is_refused_with_the_known_ones() -> None:
    world = GaussianBackbone(power_law(SHAPE, 3), {"a": torch.zeros(1, *SHAPE, dtype=torch.float64)})
    with pytest.raises(ValueError, match="knows 'a', not 'b'"):
        world.encode_text(["a", "b"])


def worlds(name: str, tiny: Sd3Backbone) -> tuple[Backbone, torch.Tensor, Conditioning]:
    if name == "sd3":
        return tiny, randn(2, 8, 16, 16).float(), tiny.encode_text(["a portrait with broad smile"] * 2)
    mixture = GaussianBackbone(torch.stack([conditioned(SHAPE, 50, 0), conditioned(SHAPE, 5, 1)]))
    return mixture, randn(2, *SHAPE), mean_conditioning(randn(2, 2, *SHAPE, seed=3))


@pytest.mark.parametrize("name", ["sd3", "gaussian mixture"])
def test_derivatives_agree_with_finite_differences_and_with_each_other(
    name: str, backbone: Sd3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, x, conditioning = worlds(name, backbone)
    t, u, sigma = randn(*x.shape, seed=5).to(x), randn(*x.shape, seed=6).to(x), torch.tensor(0.7)
    monkeypatch.setattr(world, "jvp_step", None)
    forward = world.jvp(x, sigma, conditioning, t)
    backward = world.vjp(x, sigma, conditioning, u)
    finite = world._central_difference(x, sigma, conditioning, t, 1e-2)
    assert forward.norm() > 1e-3
    assert (forward - finite).norm() < 0.01 * forward.norm()
    ahead, back = (forward * u).flatten(1).sum(1), (backward * t).flatten(1).sum(1)
    assert torch.allclose(ahead, back, rtol=1e-3, atol=1e-3 * float(forward.norm() * u.norm()) / len(x))


def test_with_a_step_given_a_backbone_differentiates_by_differences() -> None:
    world, x, conditioning = worlds("gaussian", None)  # type: ignore[arg-type]
    t, sigma = randn(*x.shape, seed=5), torch.tensor(0.7)
    exact = world.jvp(x, sigma, conditioning, t)
    world.jvp_step = 1e-3
    differences = world.jvp(x, sigma, conditioning, t)
    assert 0 < (differences - exact).norm() < 1e-3 * exact.norm()


def test_evaluations_count_a_forward_1_a_jvp_2_a_vjp_3(backbone: Sd3Backbone) -> None:
    for world, x, conditioning in (worlds("sd3", backbone), worlds("gaussian", backbone)):
        counts = []
        for call in (world.velocity, world.jvp, world.vjp):
            before = world.evaluations
            call(x, torch.tensor(0.5), conditioning, *([] if call == world.velocity else [x]))  # type: ignore[operator]
            counts.append((world.evaluations - before) / len(x))
        assert counts == [1, 2, 3]
