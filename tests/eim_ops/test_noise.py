import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eim_ops.noise import levels, noise, noised


def test_noise_of_a_row_depends_on_its_seed_alone_and_not_on_how_many_draws_follow() -> None:
    shape = (3, 5, 5)  # no multiple of 16: torch fills longer tensors in other chunks
    whole = noise([1, 2, 1], 4, shape)
    assert torch.equal(whole[:2, 1], noise([2], 2, shape)[:, 0])
    assert torch.equal(whole[:, 0], whole[:, 2])
    assert not torch.equal(whole[0, 0], whole[1, 0])


def test_in_half_precision_a_small_shift_is_rounded_with_the_point_and_none_changes_no_bit() -> None:
    clean, eps = noise([0, 1], 2, (4, 64, 64)).bfloat16()
    sigma, shift = torch.tensor(0.6), torch.full((2, 4, 64, 64), 2e-4)
    x, moved = noised(clean, eps, sigma), noised(clean, eps, sigma, shift)
    assert x.dtype == moved.dtype == torch.bfloat16
    assert (moved.float() - x.float()).mean() / 2e-4 == pytest.approx(1, abs=0.2)
    assert torch.equal(noised(clean, eps, sigma, 0 * shift), x)


@given(draws=st.integers(1, 64), sigma_max=st.floats(0.01, 1.0))
def test_levels_are_even_and_stay_below_the_top(draws: int, sigma_max: float) -> None:
    sigmas = levels(draws, sigma_max)
    assert len(sigmas) == draws
    assert (sigmas > 0).all() and (sigmas <= sigma_max + 1e-6).all()
    assert (sigmas.diff() >= 0).all()
