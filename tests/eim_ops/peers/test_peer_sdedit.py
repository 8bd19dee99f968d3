import inspect

import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.identify.spectrum import filtered
from eim_ops.peers.sdedit import SdeditSettings, sdedit
from tests.eim_ops.peers.gaussian_case import GaussianCase

PROMPTS = ["a portrait with broad smile, red hair", "a portrait with no glasses"]


@pytest.mark.parametrize(("strength", "guidance"), [(0.6, 3.0), (0.45, 1.0), (1.0, 7.0)])
def test_parity_sdedit_is_the_image_to_image_pipeline(backbone: Sd3Backbone, strength: float, guidance: float) -> None:
    """The pipeline samples the VAE's posterior from the generators that then give the noise; given latents instead of
    an image, it takes them as they are, and draws each row's noise as we do."""
    clean = torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    pipeline = StableDiffusion3Img2ImgPipeline(**backbone.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)

    def expected(output_type: str) -> torch.Tensor:
        return pipeline(
            prompt=PROMPTS, image=clean, strength=strength, num_inference_steps=7, guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in (4, 5)], height=64, width=64,
            max_sequence_length=1, output_type=output_type,
        ).images  # fmt: skip

    empty, target = backbone.encode_text(["", ""]), backbone.encode_text(PROMPTS)
    settings = SdeditSettings(steps=7, strength=strength, guidance=guidance)
    edited = sdedit(backbone, clean, empty, target, empty, [4, 5], settings)
    assert (edited - expected("latent")).abs().max() < 1e-4
    assert ((backbone.decode(edited) + 1) / 2 - expected("pt")).abs().max() < 1e-4
    assert expected("pt").std() > 0.01, "a flat image would match anything"
    assert (edited - clean).abs().max() > 0.1


def test_the_defaults_are_the_pipelines_own() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(StableDiffusion3Img2ImgPipeline.__call__).parameters.items()
    }
    ours = SdeditSettings()
    assert ours.steps == defaults["num_inference_steps"]
    assert ours.strength == defaults["strength"]
    assert ours.guidance == defaults["guidance_scale"]


def test_one_step_is_the_denoised_image() -> None:
    """From sigma straight to 0: x - sigma v = z0_hat = mu_g + a S / V (a (z0 - mu_g) + sigma eps)."""
    case, sigma, guidance = GaussianCase(), 0.25, 2.0
    edited = case.edit(sdedit, SdeditSettings(steps=4, strength=sigma, guidance=guidance))
    mean, gain = case.guided_mean("target", guidance), 0.75 * case.variance / case.noised_variance(sigma)
    assert torch.allclose(edited, mean + filtered(0.75 * (case.clean - mean) + sigma * case.eps, gain), atol=1e-6)


def test_many_steps_follow_the_ode() -> None:
    """(x - a mu_g) / sqrt(V) stays, and V = S at sigma 0: mu_g + sqrt(S / V) (a (z0 - mu_g) + sigma eps)."""
    case, sigma, guidance = GaussianCase(), 0.6, 2.0
    edited = case.edit(sdedit, SdeditSettings(steps=250, strength=sigma, guidance=guidance))
    mean, gain = case.guided_mean("target", guidance), (case.variance / case.noised_variance(sigma)).sqrt()
    expected = mean + filtered(0.4 * (case.clean - mean) + sigma * case.eps, gain)
    assert torch.allclose(edited, expected, atol=0.02)


@pytest.mark.parametrize(
    ("steps", "strength", "guidance", "evaluations"),
    [(50, 0.6, 7.0, 60), (50, 0.6, 1.0, 30), (28, 0.6, 7.0, 34), (4, 0.01, 1.0, 1), (4, 1.0, 1.0, 4)],
)
def test_only_the_steps_taken_are_evaluated(steps: int, strength: float, guidance: float, evaluations: int) -> None:
    """The share is rounded up: .6 of 28 steps are 17."""
    case = GaussianCase()
    case.edit(sdedit, SdeditSettings(steps, strength, guidance))
    assert case.world.evaluations == 3 * evaluations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"sdedit\.steps is 0; allowed: a whole number from 1 to 1000"),
        ({"steps": 2.5}, r"sdedit\.steps is 2\.5; allowed: a whole number"),
        ({"strength": 0.0}, r"sdedit\.strength is 0\.0; allowed: a number above 0, at most 1"),
        ({"strength": 1.1}, r"sdedit\.strength is 1\.1; allowed: a number above 0, at most 1"),
        ({"guidance": 0.5}, r"sdedit\.guidance is 0\.5; allowed: a number from 1 to 50"),
        ({"guidance": float("nan")}, r"sdedit\.guidance is nan; allowed"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SdeditSettings(**settings)  # type: ignore[arg-type]
