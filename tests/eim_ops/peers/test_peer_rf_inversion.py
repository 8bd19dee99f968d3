import pytest
import torch

from eim_ops.identify.spectrum import filtered
from eim_ops.peers.rf_inversion import RfInversionSettings, rf_inversion
from eim_ops.peers.sdedit import SdeditSettings, sdedit
from tests.eim_ops.peers.gaussian_case import GaussianCase


@pytest.mark.parametrize("controlled", [0, 1, 2])
def test_two_steps_worked_by_hand(controlled: int) -> None:
    """On the grid 1, 1/2, 0, with k = (1 - S) / (1 + S), e the empty prompt and g the guided target.

    Up from 0: v = -z0, so x = z0 + (-z0 + gamma eps) / 2. Up from 1/2: v = 2 k (x - mu_e / 2) - mu_e, and the
    control is 2 (eps - x). Down from 1: v = x - mu_g, the control is x - z0. Down from 1/2: both end in an image,
    v in z0_hat = mu_g + 2 S / (1 + S) (x - mu_g / 2), the control in z0."""
    case, gamma, eta, guidance = GaussianCase(), 0.3, 0.8, 2.0
    settings = RfInversionSettings(2, gamma, eta, controlled, guidance)
    k = (1 - case.variance) / (1 + case.variance)
    z0, eps, empty, target = case.clean, case.eps, case.means["empty"], case.guided_mean("target", guidance)
    x = z0 / 2 + gamma * eps / 2
    velocity = filtered(x - empty / 2, 2 * k) - empty
    x = x + ((1 - gamma) * velocity + gamma * 2 * (eps - x)) / 2
    first, second = eta * (controlled > 0), eta * (controlled > 1)
    x = x - ((1 - first) * (x - target) + first * (x - z0)) / 2
    denoised = target + filtered(x - target / 2, 2 * case.variance / (1 + case.variance))
    expected = (1 - second) * denoised + second * z0
    assert torch.allclose(case.edit(rf_inversion, settings), expected, atol=1e-9)


def test_without_control_many_steps_move_by_the_guided_shift() -> None:
    """The ODE keeps (x - a mu) / sqrt(V): up from (z0 - mu_e) / sqrt(S), down to mu_g + (z0 - mu_e)."""
    case, guidance = GaussianCase(), 2.0
    edited = case.edit(rf_inversion, RfInversionSettings(250, gamma=0, eta=0, controlled=0, guidance=guidance))
    shift = guidance * (case.means["target"] - case.means["empty"])
    assert torch.allclose(edited, case.clean + shift, atol=0.06)


def test_full_control_down_returns_the_source_whatever_the_prompt() -> None:
    """With eta = 1 each step takes x - z0 to sigma_next / sigma of itself, and the last to 0."""
    case = GaussianCase()
    edited = case.edit(rf_inversion, RfInversionSettings(steps=6, eta=1.0, controlled=6))
    assert torch.allclose(edited, case.clean, atol=1e-12)
    loose = case.edit(rf_inversion, RfInversionSettings(steps=6, eta=1.0, controlled=5))
    assert (loose - case.clean).abs().max() > 0.01


def test_full_control_up_forgets_the_source() -> None:
    """With gamma = 1 the last step up lands on the noise itself: sampling it is SDEdit at full strength."""
    case = GaussianCase()
    edited = case.edit(rf_inversion, RfInversionSettings(steps=6, gamma=1.0, controlled=0, guidance=2.0))
    generated = case.edit(sdedit, SdeditSettings(steps=6, strength=1.0, guidance=2.0))
    assert torch.allclose(edited, generated, atol=1e-12)


@pytest.mark.parametrize(("guidance", "evaluations"), [(3.5, 84), (1.0, 56)])
def test_a_step_costs_one_evaluation_up_and_one_down_and_guidance_one_more(guidance: float, evaluations: int) -> None:
    case = GaussianCase()
    case.edit(rf_inversion, RfInversionSettings(guidance=guidance))
    assert case.world.evaluations == 3 * evaluations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"rf_inversion\.steps is 0; allowed: a whole number from 1 to 1000"),
        ({"gamma": -0.1}, r"rf_inversion\.gamma is -0\.1; allowed: a number from 0 to 1"),
        ({"eta": 1.2}, r"rf_inversion\.eta is 1\.2; allowed: a number from 0 to 1"),
        ({"controlled": 29}, r"rf_inversion\.controlled is 29; allowed: a whole number from 0 to 28"),
        ({"guidance": 0.0}, r"rf_inversion\.guidance is 0\.0; allowed: a number from 1 to 50"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RfInversionSettings(**settings)  # type: ignore[arg-type]
