"""FLUX.2 dev and FLUX.2 klein."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from eim_ops.backbones.adapter import PartConfig, PipelineBackbone, token_count
from eim_ops.backbones.base import GuidanceKind
from eim_ops.joint import Conditioning


class Flux2Backbone(PipelineBackbone):
    """`Backbone` on a loaded `Flux2Pipeline`. Latents are 2 x 2 patches of the VAE's, whitened by its batch norm.

    The transformer attends to padding, so `prompt_tokens` changes pixels.
    """

    embedded_guidance: ClassVar[float | None] = 4.0

    @classmethod
    def guidance_of(cls, config: PartConfig) -> GuidanceKind:
        """By the transformer's `guidance_embeds`."""
        return "embedded" if config("transformer")["guidance_embeds"] else "none"

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        # Seconds, which other families should not pay.
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        messages = format_input([prompt], self.pipeline.system_message)
        ids = self.pipeline.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        return [(len(ids[0]), self._prompt_tokens)]

    def _encode_text(self, prompts: list[str]) -> Conditioning:
        tokens, _ = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self._prompt_tokens)
        return Conditioning(tokens, tokens.new_zeros(len(prompts), 0))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of the patched latents."""
        vae = self.pipeline.vae
        deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        mean, deviation = (it.view(1, -1, 1, 1).to(like) for it in (vae.bn.running_mean, deviation))
        return mean, deviation

    def _encode_image(self, images: Tensor) -> Tensor:
        patches = torch.nn.functional.pixel_unshuffle(self.pipeline.vae.encode(images).latent_dist.mode(), 2)
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def _decode(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        raw = torch.nn.functional.pixel_shuffle(latents * deviation + mean, 2)
        return self.pipeline.vae.decode(raw, return_dict=False)[0]

    def _image_tokens(self, shape: Sequence[int]) -> int:
        return shape[0] * shape[1]

    def _schedule(self, steps: int, tokens: int, config: Any) -> dict[str, Any]:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return super()._schedule(steps, tokens, config) | {"mu": compute_empirical_mu(tokens, steps)}

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        shape, one = latents.shape[-2:], torch.arange(1)
        image_ids = torch.cartesian_prod(one, torch.arange(shape[0]), torch.arange(shape[1]), one)
        text_ids = torch.cartesian_prod(one, one, one, torch.arange(conditioning.tokens.shape[1]))
        velocity = self.pipeline.transformer(
            hidden_states=latents.flatten(2).transpose(1, 2),
            timestep=self._levels(latents, sigma).to(latents.dtype), guidance=self._guidance_input(latents),
            encoder_hidden_states=conditioning.tokens, txt_ids=text_ids.to(latents.device)[None],
            img_ids=image_ids.to(latents.device)[None], return_dict=False,
        )[0]  # fmt: skip
        return velocity.transpose(1, 2).unflatten(2, shape)


class Flux2KleinBackbone(Flux2Backbone):
    """`Backbone` on a loaded `Flux2KleinPipeline`: the base models take true guidance, the distilled ones none."""

    @classmethod
    def guidance_of(cls, config: PartConfig) -> GuidanceKind:
        """By the pipeline's `is_distilled`."""
        return "none" if config("").get("is_distilled") else "true"

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        text = self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return [(token_count(self.pipeline.tokenizer, text), self._prompt_tokens)]
