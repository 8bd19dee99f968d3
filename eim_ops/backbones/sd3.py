"""Stable Diffusion 3 and 3.5 (and mini-dit, which has their layout)."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from eim_ops.backbones.base import Backbone, PromptTooLongError
from eim_ops.joint import Conditioning

_T5_TOKENS = 256


class Sd3Backbone(Backbone):
    """`Backbone` on a loaded `StableDiffusion3Pipeline`.

    Without a third text encoder the pipeline appends `max_sequence_length` zero tokens, 256 by
    default, that carry nothing and cost attention; here one is appended.
    """

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, name: str, revision: str, spectrum: Tensor | None = None
    ) -> None:
        size = int(pipeline.transformer.config.sample_size * pipeline.vae_scale_factor)
        super().__init__(name, revision, size, spectrum)
        self.pipeline = pipeline
        # In float32 differences are half as dear as forward mode and right to 1e-4; in half precision they are not.
        self.jvp_step = 1e-2 if self.dtype == torch.float32 else None
        self._t5_tokens = _T5_TOKENS if pipeline.text_encoder_3 is not None else 1

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return self.pipeline.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's dtype; latents and conditionings are kept in it."""
        return self.pipeline.transformer.dtype

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptTooLongError if any text encoder would cut the prompt."""
        limits = (
            (self.pipeline.tokenizer, None),
            (self.pipeline.tokenizer_2, None),
            (self.pipeline.tokenizer_3, _T5_TOKENS),
        )
        for tokenizer, limit in limits:
            if tokenizer is None:
                continue
            allowed = limit or tokenizer.model_max_length
            count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
            if count > allowed:
                raise PromptTooLongError(
                    f"the prompt has {count} tokens, {self.name} takes {allowed}: shorten it ({prompt!r})"
                )

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to tokens (B, L, D) and pooled (B, P), by the pipeline's own `encode_prompt`."""
        for prompt in set(prompts):
            self.check_prompt(prompt)
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(prompts), prompt_2=None, prompt_3=None, device=self.device,
            do_classifier_free_guidance=False, max_sequence_length=self._t5_tokens,
        )  # fmt: skip
        return Conditioning(tokens.to(self.dtype), pooled.to(self.dtype))

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [-1, 1] to latents (B, C, h, w); the posterior's mode, so nothing is random."""
        vae = self.pipeline.vae
        mode = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
        return ((mode - vae.config.shift_factor) * vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to RGB float32 (B, 3, H, W), clamped to [-1, 1]."""
        vae = self.pipeline.vae
        raw = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(raw, return_dict=False)[0].float().clamp(-1, 1)

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        timestep = (sigma.to(latents.device, torch.float32) * 1000).expand(len(latents))
        return self.pipeline.transformer(
            hidden_states=latents, timestep=timestep, encoder_hidden_states=conditioning.tokens,
            pooled_projections=conditioning.pooled, return_dict=False,
        )[0]  # fmt: skip

    def grid(self, steps: int) -> Tensor:
        """The scheduler's sigmas for `steps` steps, float32 (steps + 1,), the last 0."""
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler.sigmas.to(self.device, torch.float32)
