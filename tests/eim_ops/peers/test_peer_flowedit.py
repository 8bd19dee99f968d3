import pytest
import torch

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.identify.spectrum import filtered
from eim_ops.noise import noise
from eim_ops.peers.flowedit import FlowEditSettings, flowedit
from tests.eim_ops.peers.gaussian_case import SEEDS, SHAPE, GaussianCase


def test_one_step_moves_by_sigma_squared_over_v_of_the_shift() -> None:
    """With d = y - z0 and delta the shift between the guided means, the noise cancels from the two velocities:
    dv = (sigma - a S) / V (d - a delta) - delta. From d = 0 in one step of -sigma, with sigma + a = 1,
    d = sigma delta (V + a (sigma - a S)) / V = sigma^2 / V delta."""
    case, sigma = GaussianCase(), 0.25
    edited = case.edit(flowedit, FlowEditSettings(steps=4, last=1, source_guidance=1.5, target_guidance=3.0))
    delta = case.guided_mean("target", 3.0) - case.guided_mean("source", 1.5)
    moved = filtered(delta, sigma**2 / case.noised_variance(sigma))
    assert torch.allclose(edited, case.clean + moved, atol=1e-6)


@pytest.mark.parametrize(("steps", "last", "sigma", "error"), [(250, 150, 0.6, 0.03), (10, 10, 1.0, 1e-9)])
def test_many_steps_follow_the_ode(steps: int, last: int, sigma: float, error: float) -> None:
    """d' = (sigma - a S) / V (d - a delta) - delta makes (d - a delta) / sqrt(V) constant, and d = 0 at the top:
    d = (1 - a sqrt(S / V)) delta at sigma 0. From pure noise it is the whole shift, in any number of steps."""
    case = GaussianCase()
    edited = case.edit(flowedit, FlowEditSettings(steps, last, source_guidance=1.5, target_guidance=3.0))
    delta = case.guided_mean("target", 3.0) - case.guided_mean("source", 1.5)
    gain = 1 - (1 - sigma) * (case.variance / case.noised_variance(sigma)).sqrt()
    assert torch.allclose(edited, case.clean + filtered(delta, gain), atol=error)


def test_each_step_has_fresh_noise_the_same_for_both_prompts() -> None:
    case = GaussianCase()
    case.edit(flowedit, FlowEditSettings(steps=8, last=5, source_guidance=1.0, target_guidance=1.0))
    assert torch.equal(torch.stack([sigma for _, sigma, _ in case.world.calls[::2]]), case.world.grid(8)[3:8])
    for (x, sigma, _), eps in zip(case.world.calls[::2], noise(SEEDS, 5, SHAPE[1:]), strict=True):
        assert torch.allclose((x - (1 - sigma) * case.clean) / sigma, eps.double(), atol=1e-6)
    drift = [(moved[0] - x[0]).norm() for x, moved in zip(case.world.calls[::2], case.world.calls[1::2], strict=True)]
    assert drift[0] == 0, "y starts as the source"
    assert min(drift[1:]) > 1e-3, "and y - z0 is what sets the two points apart"


def test_equal_prompts_leave_the_source_unless_guidance_differs(backbone: Sd3Backbone) -> None:
    clean = torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    prompt, empty = backbone.encode_text(["a portrait with broad smile"] * 2), backbone.encode_text(["", ""])
    equal, unequal = (
        flowedit(backbone, clean, prompt, prompt, empty, [0, 1], FlowEditSettings(6, 4, 3.5, target))
        for target in (3.5, 13.5)
    )
    assert torch.equal(equal, clean)
    assert (unequal - clean).abs().max() > 1e-3


def test_small_steps_are_not_lost_in_a_coarse_dtype() -> None:
    """In bfloat16, 400 steps of 1/400 vanish against images of size 1 unless they are added up wider."""
    case = GaussianCase()
    settings = FlowEditSettings(steps=400, last=400, source_guidance=1.0, target_guidance=1.0)
    exact = case.edit(flowedit, settings) - case.clean
    case.clean = case.clean.bfloat16()
    coarse = case.edit(flowedit, settings)
    assert coarse.dtype == torch.bfloat16
    assert (coarse - case.clean - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("source_guidance", "target_guidance", "evaluations"), [(3.5, 13.5, 132), (1.0, 13.5, 99), (1.0, 1.0, 66)]
)
def test_a_step_costs_two_evaluations_and_one_for_each_guidance(
    source_guidance: float, target_guidance: float, evaluations: int
) -> None:
    case = GaussianCase()
    case.edit(flowedit, FlowEditSettings(source_guidance=source_guidance, target_guidance=target_guidance))
    assert case.world.evaluations == 3 * evaluations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"flowedit\.steps is 0; allowed: a whole number from 1 to 1000"),
        ({"last": 51}, r"flowedit\.last is 51; allowed: a whole number from 1 to 50"),
        ({"last": 0}, r"flowedit\.last is 0; allowed: a whole number from 1 to 50"),
        ({"source_guidance": 0.0}, r"flowedit\.source_guidance is 0\.0; allowed: a number from 1 to 50"),
        ({"target_guidance": 51.0}, r"flowedit\.target_guidance is 51\.0; allowed: a number from 1 to 50"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowEditSettings(**settings)  # type: ignore[arg-type]
