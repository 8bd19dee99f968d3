"""Stable Diffusion 3 and 3.5 (and mini-dit, which has their layout)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from eim_ops.backbones.adapter import (
    PartConfig,
    PipelineBackbone,
    shift_of,
    token_count,
    vae_scale,
)
from eim_ops.backbones.base import AttentionKind
from eim_ops.joint import Conditioning


class Sd3Backbone(PipelineBackbone):
    """`Backbone` on a loaded `StableDiffusion3Pipeline`; `prompt_tokens` are T5's.

    Without a third text encoder the pipeline appends `max_sequence_length` zero tokens, 256 by
    default, that carry nothing and cost attention; here one is appended.
    """

    prompt_tokens: ClassVar[int] = 256
    attention_kind: ClassVar[AttentionKind] = "fixed"

    @classmethod
    def own_size(cls, config: PartConfig) -> int:
        """Latent size times the VAE's scale."""
        return config("transformer")["sample_size"] * vae_scale(config)

    @classmethod
    def largest_side(cls, config: PartConfig) -> int | None:
        """Positions are cropped from the middle of a table of so many patches."""
        transformer = config("transformer")
        return transformer["pos_embed_max_size"] * transformer["patch_size"] * vae_scale(config)

    @classmethod
    def takes_prompt_tokens(cls, config: PartConfig) -> bool:
        """They are T5's, which a model may be without; the others have a length of their own."""
        return (config("").get("text_encoder_3") or [None])[0] is not None

    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        pipe = self.pipeline
        limits = [(it, it.model_max_length) for it in (pipe.tokenizer, pipe.tokenizer_2)]
        if pipe.tokenizer_3 is not None:
            limits.append((pipe.tokenizer_3, self._prompt_tokens))
        return [(token_count(tokenizer, prompt), allowed) for tokenizer, allowed in limits]

    def _encode_text(self, prompts: list[str]) -> Conditioning:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts, prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False,
            max_sequence_length=self._prompt_tokens if self.pipeline.text_encoder_3 is not None else 1,
        )  # fmt: skip
        return Conditioning(tokens, pooled)

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return self.pipeline.transformer(
            hidden_states=latents, timestep=self._levels(latents, sigma) * 1000,
            encoder_hidden_states=conditioning.tokens, pooled_projections=conditioning.pooled, return_dict=False,
        )[0]  # fmt: skip

    def _schedule(self, steps: int, tokens: int, config: Mapping[str, Any]) -> dict[str, Any]:
        shift = {"mu": shift_of(tokens, config)} if config.get("use_dynamic_shifting") else {}
        return {"num_inference_steps": steps, **shift}
