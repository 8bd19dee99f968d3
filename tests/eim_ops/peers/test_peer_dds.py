import pytest
import torch

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.identify.spectrum import filtered
from eim_ops.joint import Conditioning
from eim_ops.peers.dds import DdsSettings, dds
from tests.eim_ops.peers.gaussian_case import GaussianCase


@pytest.mark.parametrize("iterations", [1, 5])
def test_at_one_noise_level_the_shift_is_a_geometric_series(iterations: int) -> None:
    """eps_hat = sigma / V (x - a mu_g), so with d = z - z0 and delta = w (mu_t - mu_s) the noise cancels:
    grad = sigma a / V (d - delta). Each step of rate r leaves 1 - r sigma a / V of what is missing."""
    case, sigma, rate, guidance = GaussianCase(), 0.6, 0.8, 2.5
    edited = case.edit(dds, DdsSettings(iterations, rate, guidance, sigma_low=sigma, sigma_high=sigma))
    delta = guidance * (case.means["target"] - case.means["source"])
    left = (1 - rate * sigma * (1 - sigma) / case.noised_variance(sigma)) ** iterations
    assert torch.allclose(edited, case.clean + filtered(delta, 1 - left), atol=1e-6)


def test_at_drawn_levels_each_step_shrinks_what_is_missing_by_its_own_level() -> None:
    """The same series with the levels that the world was asked for, row by row."""
    case = GaussianCase()
    edited = case.edit(dds, DdsSettings(iterations=4, learning_rate=0.8, guidance=1.0))
    delta = case.means["target"] - case.means["source"]
    for row in range(3):
        left = torch.ones_like(case.variance)
        for _, sigma, _ in case.world.calls[::2]:
            level = float(sigma[row])
            left = left * (1 - 0.8 * level * (1 - level) / case.noised_variance(level))
        moved = filtered(delta[row], 1 - left)
        assert torch.allclose(edited[row], case.clean[row] + moved, atol=1e-5)


def test_levels_and_noise_are_fresh_in_each_step_and_the_same_for_both_prompts() -> None:
    case = GaussianCase()
    case.edit(dds, DdsSettings(iterations=400, learning_rate=1e-6, guidance=1.0, sigma_low=0.2, sigma_high=0.8))
    sources, targets = case.world.calls[::2], case.world.calls[1::2]
    sigmas = torch.stack([sigma for _, sigma, _ in sources])
    assert torch.equal(sigmas, torch.stack([sigma for _, sigma, _ in targets]))
    assert sigmas.min() >= 0.2 and sigmas.max() <= 0.8
    even = 0.2 + 0.6 * torch.linspace(0, 1, sigmas.numel())
    assert (sigmas.flatten().sort().values - even).abs().max() < 0.05, "evenly drawn"
    assert all((source[0] - target[0]).abs().max() < 1e-3 for source, target in zip(sources, targets, strict=True))
    level = sigmas.double()[..., None, None, None]
    eps = (torch.stack([x for x, _, _ in sources]) - (1 - level) * case.clean) / level
    assert eps.std() == pytest.approx(1, abs=0.02)
    assert (eps.flatten(1) @ eps.flatten(1).T / eps[0].numel()).fill_diagonal_(0).abs().mean() < 0.15, "uncorrelated"
    loudness = eps.square().mean((2, 3, 4)).flatten()
    assert torch.corrcoef(torch.stack([sigmas.flatten().double(), loudness]))[0, 1].abs() < 0.1


def test_equal_prompts_leave_the_source(backbone: Sd3Backbone) -> None:
    clean = torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    prompts = ["a portrait with broad smile"] * 2, ["a portrait with deep frown"] * 2, ["", ""]
    smile, frown, empty = (backbone.encode_text(prompt) for prompt in prompts)

    def edited(target: Conditioning) -> torch.Tensor:
        return dds(backbone, clean, smile, target, empty, [0, 1], DdsSettings(iterations=3, learning_rate=2.0))

    assert torch.equal(edited(smile), clean)
    assert (edited(frown) - clean).abs().max() > 1e-3


def test_small_steps_are_not_lost_in_a_coarse_dtype() -> None:
    case, settings = GaussianCase(), DdsSettings(iterations=300, learning_rate=0.002, guidance=1.0)
    exact = case.edit(dds, settings) - case.clean
    case.clean = case.clean.bfloat16()
    coarse = case.edit(dds, settings)
    assert coarse.dtype == torch.bfloat16
    assert (coarse - case.clean - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(("guidance", "evaluations"), [(7.5, 800), (1.0, 400)])
def test_an_iteration_costs_two_evaluations_and_two_for_guidance(guidance: float, evaluations: int) -> None:
    case = GaussianCase()
    case.edit(dds, DdsSettings(guidance=guidance))
    assert case.world.evaluations == 3 * evaluations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, r"dds\.iterations is 0; allowed: a whole number from 1 to 10000"),
        ({"learning_rate": 0.0}, r"dds\.learning_rate is 0\.0; allowed: a number above 0, at most 10"),
        ({"guidance": 0.9}, r"dds\.guidance is 0\.9; allowed: a number from 1 to 50"),
        ({"sigma_low": 0.0}, r"dds\.sigma_low is 0\.0; allowed: a number above 0, at most 0\.95"),
        ({"sigma_low": 0.6, "sigma_high": 0.5}, r"dds\.sigma_low is 0\.6; allowed: a number above 0, at most 0\.5"),
        ({"sigma_high": 1.5}, r"dds\.sigma_high is 1\.5; allowed: a number above 0, at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DdsSettings(**settings)  # type: ignore[arg-type]
