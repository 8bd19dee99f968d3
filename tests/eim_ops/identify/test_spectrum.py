from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.backbones.gaussian import GaussianBackbone, conditioned, mean_conditioning
from eim_ops.identify.spectrum import filtered, floored, load_spectrum, measure_spectrum, save_spectrum, unexplained


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
