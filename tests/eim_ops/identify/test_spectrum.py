from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.identify.spectrum import (
    filtered,
    floored,
    load_spectrum,
    measure_spectrum,
    resampled,
    save_spectrum,
    unexplained,
)


def test_the_measured_spectrum_is_the_worlds_own() -> None:
    world = GaussianBackbone(conditioned((2, 6, 6), 30, 0))
    images = world.draw(torch.full((3000, 2, 6, 6), 0.7, dtype=torch.float64), 0)
    assert torch.allclose(measure_spectrum(images).double(), world.power[0], rtol=0.2)


def test_what_a_prompt_leaves_open_has_the_spectrum_within_the_condition() -> None:
    world = GaussianBackbone(conditioned((2, 6, 6), 30, 0))
    means = torch.randn((2000, 2, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30
    means = means.expand(-1, 2, 6, 6).contiguous()
    images = world.draw(means, 0)
    left = unexplained(world, images, mean_conditioning(means), range(2000))
    within, among = measure_spectrum(left).double(), measure_spectrum(images).double()
    assert torch.allclose(within, world.power[0], rtol=0.25)
    assert (among / world.power[0])[:, 0, 0].min() > 100


def test_one_image_has_no_spectrum() -> None:
    with pytest.raises(ValueError, match="at least two"):
        measure_spectrum(torch.zeros(1, 2, 4, 4))


def test_resampled_to_its_own_shape_a_spectrum_is_itself() -> None:
    power = conditioned((2, 6, 5), 30, 0)
    assert torch.equal(resampled(power, (6, 5)), power)


def smooth_power(shape: tuple[int, int]) -> torch.Tensor:
    """Of a stationary world: a smooth function of frequency in cycles a latent."""
    y, x = (torch.fft.fftfreq(count, dtype=torch.float64) for count in shape)
    along = 2 - torch.cos(2 * torch.pi * y)[:, None] - 0.5 * torch.cos(2 * torch.pi * x)[None]
    return (1 / along)[None]


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (20, 12), (13, 19), (32, 32)])
def test_of_a_stationary_world_a_resampled_spectrum_is_that_of_the_other_shape(shape: tuple[int, int]) -> None:
    found = resampled(smooth_power((16, 16)), shape)
    assert torch.allclose(found, smooth_power(shape), rtol=0.05)


@given(seed=st.integers(0, 100), height=st.integers(2, 11), width=st.integers(2, 11))
def test_a_resampled_spectrum_is_equal_at_opposite_frequencies(seed: int, height: int, width: int) -> None:
    found = resampled(conditioned((1, 6, 8), 30, seed), (height, width))
    opposite = found.flip(-2, -1).roll((1, 1), (-2, -1))
    assert found.shape == (1, height, width)
    assert torch.allclose(found, opposite)
    assert found.min() > 0


@given(seed=st.integers(0, 1000))
def test_filtering_by_a_spectrum_and_its_inverse_changes_nothing(seed: int) -> None:
    power = conditioned((1, 5, 4), 50, seed)
    latents = torch.randn((2, 1, 5, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(filtered(filtered(latents, power), 1 / power), latents)


def test_a_spectrum_lies_beside_the_weights_and_no_frequency_is_forbidden(tmp_path: Path) -> None:
    assert load_spectrum(tmp_path) is None
    spectrum = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
    save_spectrum(spectrum, tmp_path)
    loaded = load_spectrum(tmp_path)
    assert loaded is not None and torch.equal(loaded, spectrum)
    assert floored(loaded).min() == pytest.approx(1e-3)
