"""Z-Image and Z-Image-Turbo."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from eim_ops.backbones.adapter import PartConfig, PipelineBackbone, padded, token_count
from eim_ops.backbones.base import AttentionKind
from eim_ops.joint import Conditioning


class ZImageBackbone(PipelineBackbone):
    """`Backbone` on a loaded `ZImagePipeline`. Its transformer takes lists, so a caption's padding never reaches it.
    It pads to the longest caption of a batch itself, in steps of 32 tokens and masked: among captions on both sides of
    such a step a row knows its neighbours in its rounding.

    The pipeline's `guidance_scale` g means `v + g (v - v_empty)`, so `free_guidance` is g + 1. Turbo was made for none,
    g = 0; no configuration tells the two apart, so the method must: `free_guidance: 1`.
    """

    attention_kind: ClassVar[AttentionKind] = "masked"

    @classmethod
    def own_size(cls, config: PartConfig) -> int:
        """The pipeline's default."""
        return 1024

    def _chat(self, prompt: str) -> str:
        return self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        return [(token_count(self.pipeline.tokenizer, self._chat(prompt)), self._prompt_tokens)]

    def _encode_text(self, prompts: list[str]) -> Conditioning:
        encoded, _ = self.pipeline.encode_prompt(
            prompts, self.device, do_classifier_free_guidance=False, max_sequence_length=self._prompt_tokens
        )
        tokens = torch.stack([padded(one, self._prompt_tokens) for one in encoded])
        mask = torch.stack([padded(one.new_ones(len(one)), self._prompt_tokens) for one in encoded])
        return Conditioning(tokens, tokens.new_zeros(len(tokens), 0), mask)

    @property
    def _attention_heads(self) -> int:
        return self.pipeline.transformer.config.n_heads

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Its time runs from noise, 0, to image, 1, and its velocity points along it."""
        present = conditioning.present
        captions = [tokens[its] for tokens, its in zip(conditioning.tokens, present, strict=True)]
        images = list(latents[:, :, None].unbind())
        velocities = self.pipeline.transformer(images, 1 - self._levels(latents, sigma), captions, return_dict=False)[0]
        return -torch.stack(velocities)[:, :, 0]
