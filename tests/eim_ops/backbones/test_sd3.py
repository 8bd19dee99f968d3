from itertools import pairwise

import pytest
import torch

from eim_ops.backbones.base import PromptTooLongError
from eim_ops.backbones.sd3 import Sd3Backbone

PROMPTS = ["a portrait with broad smile, red hair", "a portrait with no glasses"]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_parity_sd3_reproduces_the_pipelines_own_image(backbone: Sd3Backbone, guidance: float) -> None:
    latents = torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    expected = backbone.pipeline(
        prompt=PROMPTS, latents=latents.clone(), num_inference_steps=5, guidance_scale=guidance,
        max_sequence_length=1, output_type="pt",
    ).images  # fmt: skip

    conditioning, empty = backbone.encode_text(PROMPTS), backbone.encode_text(["", ""])
    sigmas, x = backbone.grid(5), latents
    with torch.no_grad():
        for sigma, below in pairwise(sigmas):
            velocity = backbone.velocity(x, sigma, conditioning)
            if guidance > 1:
                base = backbone.velocity(x, sigma, empty)
                velocity = base + guidance * (velocity - base)
            x = x + (below - sigma) * velocity
    ours = (backbone.decode(x) + 1) / 2
    assert (ours - expected).abs().max() < 1e-4
    assert expected.std() > 0.01, "a flat image would match anything"


def test_a_prompt_that_would_be_cut_is_refused_by_name(backbone: Sd3Backbone) -> None:
    with pytest.raises(PromptTooLongError, match=r"42 tokens, tiny-sd3 takes 32.*smile"):
        backbone.encode_text(["smile " * 40])


def test_one_velocity_counts_its_rows(backbone: Sd3Backbone) -> None:
    before = backbone.evaluations
    with torch.no_grad():
        backbone.velocity(torch.zeros(2, 8, 16, 16), torch.tensor(0.5), backbone.encode_text(PROMPTS))
    assert backbone.evaluations - before == 2


def test_decode_inverts_the_scaling_of_encode(backbone: Sd3Backbone) -> None:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = backbone.pipeline.vae
    with torch.no_grad():
        expected = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    assert torch.allclose(backbone.decode(backbone.encode_image(images)), expected, atol=1e-5)
