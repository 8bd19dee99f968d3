"""Qwen-Image."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from eim_ops.backbones.adapter import PartConfig, PipelineBackbone, packed, padded, token_count, unpacked
from eim_ops.backbones.base import AttentionKind
from eim_ops.joint import Conditioning


class QwenImageBackbone(PipelineBackbone):
    """`Backbone` on a loaded `QwenImagePipeline`. Padding is masked, so `prompt_tokens` changes cost, not pixels
    (up to rounding).

    Each prompt is encoded alone: the pipeline pads to the longest of a batch, which would tell a row's neighbours.
    """

    attention_kind: ClassVar[AttentionKind] = "masked"

    @classmethod
    def size_step(cls, config: PartConfig) -> int:
        """Its VAE is one for videos; a side is halved at every stage."""
        return 2 * 2 ** len(config("vae")["temperal_downsample"])

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        pipe = self.pipeline
        count = token_count(pipe.tokenizer, pipe.prompt_template_encode.format(prompt))
        return [(count - pipe.prompt_template_encode_start_idx, self._prompt_tokens)]

    def _encode_text(self, prompts: list[str]) -> Conditioning:
        unique = list(dict.fromkeys(prompts))
        encoded = [self.pipeline.encode_prompt(prompt, self.device)[0][0] for prompt in unique]
        tokens = torch.stack([padded(one, self._prompt_tokens) for one in encoded])
        mask = torch.stack([padded(one.new_ones(len(one)), self._prompt_tokens) for one in encoded])
        rows = [unique.index(prompt) for prompt in prompts]
        return Conditioning(tokens[rows], tokens.new_zeros(len(prompts), 0), mask[rows])

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each latent channel."""
        config = self.pipeline.vae.config
        mean, deviation = (
            torch.tensor(it).view(1, -1, 1, 1).to(like) for it in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

    def _encode_image(self, images: Tensor) -> Tensor:
        mode = self.pipeline.vae.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
        mean, deviation = self._statistics(mode)
        return (mode - mean) / deviation

    def _decode(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        return self.pipeline.vae.decode((latents * deviation + mean)[:, :, None], return_dict=False)[0][:, :, 0]

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = latents.shape[-2:]
        velocity = self.pipeline.transformer(
            hidden_states=packed(latents), timestep=self._levels(latents, sigma).to(latents.dtype),
            encoder_hidden_states=conditioning.tokens, encoder_hidden_states_mask=conditioning.present,
            img_shapes=[[(1, height // 2, width // 2)]] * len(latents), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(velocity, (height, width))

    def guide(self, velocity: Tensor, from_empty: Tensor, weight: float) -> Tensor:
        """Classifier-free guidance, every 2 x 2 token brought back to the length that it has without guidance."""
        guided = packed(super().guide(velocity, from_empty, weight))
        ratio = packed(velocity).norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return unpacked(guided * ratio, velocity.shape[-2:])
