"""FLUX.1 dev and schnell."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from eim_ops.backbones.adapter import (
    PartConfig,
    PipelineBackbone,
    packed,
    token_count,
    unpacked,
)
from eim_ops.backbones.base import GuidanceKind
from eim_ops.joint import Conditioning


class FluxBackbone(PipelineBackbone):
    """`Backbone` on a loaded `FluxPipeline`. dev takes its guidance scale as an input; schnell has none.

    T5 attends to its padding, so `prompt_tokens` changes pixels; schnell was made with 256.
    """

    embedded_guidance: ClassVar[float | None] = 3.5

    @classmethod
    def guidance_of(cls, config: PartConfig) -> GuidanceKind:
        """By the transformer's `guidance_embeds`."""
        return "embedded" if config("transformer")["guidance_embeds"] else "none"

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        clip, t5 = self.pipeline.tokenizer, self.pipeline.tokenizer_2
        return [
            (token_count(clip, prompt), clip.model_max_length), (token_count(t5, prompt), self._prompt_tokens),
        ]  # fmt: skip

    def _encode_text(self, prompts: list[str]) -> Conditioning:
        tokens, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts, prompt_2=None, device=self.device, max_sequence_length=self._prompt_tokens
        )
        return Conditioning(tokens, pooled)

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = latents.shape[-2:]
        ids = torch.cartesian_prod(torch.arange(1), torch.arange(height // 2), torch.arange(width // 2))
        velocity = self.pipeline.transformer(
            hidden_states=packed(latents), timestep=self._levels(latents, sigma).to(latents.dtype),
            guidance=self._guidance_input(latents),
            pooled_projections=conditioning.pooled, encoder_hidden_states=conditioning.tokens,
            txt_ids=torch.zeros(conditioning.tokens.shape[1], 3).to(latents), img_ids=ids.to(latents),
            return_dict=False,
        )[0]  # fmt: skip
        return unpacked(velocity, (height, width))
