"""What the families have in common: a loaded diffusers pipeline behind the `Backbone` interface."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import AttentionKind, Backbone, GuidanceKind, PromptTooLongError
from eim_ops.joint import Conditioning

_SCORE_BYTES = 2**31
"""At 1024 px one row of FLUX.1 or SD3.5. A JVP holds about four such at once."""

PartConfig = Callable[[str], Mapping[str, Any]]
"""A part's configuration by the part's name, such as `transformer`; "" is the pipeline's own, `model_index.json`."""


class PipelineBackbone(Backbone):
    """`Backbone` on a loaded pipeline. docs/add-a-backbone.md tells what a family answers."""

    prompt_tokens: ClassVar[int] = 512
    """Text tokens that a prompt is padded to unless `loading.prompt_tokens` says otherwise; longer ones are refused."""
    embedded_guidance: ClassVar[float | None] = None
    """The pipeline's default scale, where the guidance is embedded."""
    attention_kind: ClassVar[AttentionKind] = "unmasked"
    """Which `loading.attention_backend` it can take."""
    checkpoints: bool = True
    """Whether a VJP keeps each block's input alone and computes the block again on its way back: one forward more, and
    the memory of one block instead of all. Derivatives are the same; where the transformer has no checkpoints it is
    without effect."""

    def __init__(
        self, pipeline: Any, name: str, revision: str, spectrum: Tensor | None = None, *,
        embedded_guidance: float | None = None, prompt_tokens: int | None = None, forward_only: bool = False,
    ) -> None:  # fmt: skip
        """embedded_guidance: the scale. prompt_tokens: see the class; None: the family's own of both. forward_only: it
        was loaded without derivatives, see `eim_ops/loading.py`."""
        config = loaded_config(pipeline)
        super().__init__(name, revision, self.own_size(config), spectrum)
        self.pipeline = pipeline
        self.guidance_kind = self.guidance_of(config)
        self._embedded_guidance = self.embedded_guidance if embedded_guidance is None else embedded_guidance
        self._prompt_tokens = prompt_tokens or self.prompt_tokens
        self._step, self._forward_only = self.size_step(config), forward_only
        # In float32 differences are half as dear as forward mode and right to 1e-4; in half precision they are not.
        self.jvp_step = 1e-2 if self.dtype == torch.float32 else None

    @classmethod
    def own_size(cls, config: PartConfig) -> int:
        """Side in pixels of the square images it was made for, from its configurations alone: the pipelines' default,
        which is 1024 with the VAE that most families have."""
        return 64 * cls.size_step(config)

    @classmethod
    def size_step(cls, config: PartConfig) -> int:
        """Height and width in pixels are multiples of it: the VAE's scale times the transformer's patch of 2."""
        return 2 * vae_scale(config)

    @classmethod
    def largest_side(cls, config: PartConfig) -> int | None:
        """The most pixels of a side; None: no bound."""
        return None

    @classmethod
    def takes_prompt_tokens(cls, config: PartConfig) -> bool:
        """Whether `prompt_tokens` is of any effect, from its configurations alone."""
        return True

    @classmethod
    def guidance_of(cls, config: PartConfig) -> GuidanceKind:
        """Which guidance the model was made for, from its configurations alone."""
        return "true"

    @property
    def device(self) -> torch.device:
        """Where the pipeline keeps its latents and conditionings. The transformer computes there, but for
        `loading.device_map`, under which it may be on another GPU: its hooks fetch what it is given."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's dtype; latents and conditionings are kept in it."""
        return self.pipeline.transformer.dtype

    @abstractmethod
    def _token_counts(self, prompt: str) -> Sequence[tuple[int, int]]:
        """For each text encoder (tokens of the prompt uncut, tokens that it takes), what the template adds included."""

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptTooLongError if any text encoder would cut the prompt."""
        for count, allowed in self._token_counts(prompt):
            if count > allowed:
                raise PromptTooLongError(
                    f"the prompt has {count} tokens, {self.name} takes {allowed}: shorten it ({prompt!r})"
                )

    @abstractmethod
    def _encode_text(self, prompts: list[str]) -> Conditioning:
        """Prompts that were checked to conditioning, by the pipeline's own `encode_prompt`."""

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to conditioning in the transformer's dtype, by the pipeline's own `encode_prompt`."""
        for prompt in set(prompts):
            self.check_prompt(prompt)
        text = self._encode_text(list(prompts))
        return Conditioning(**{name: part.to(self.device, self.dtype) for name, part in text.parts().items()})

    def _encode_image(self, images: Tensor) -> Tensor:
        """As `encode_image`, of a size that was checked: an AutoencoderKL's mode, shifted and scaled."""
        vae = self.pipeline.vae
        return (vae.encode(images).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [-1, 1] to latents (B, C, h, w); the posterior's mode, so nothing is random.

        Raises ValueError for a size that is no multiple of the family's step.
        """
        if any(side % self._step for side in images.shape[-2:]):
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} px: {self.name} takes multiples of {self._step}; resize them"
            )
        vae = self.pipeline.vae
        return self._encode_image(images.to(self.device, vae.dtype)).to(self.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        """As `decode`, unclamped, from latents in the VAE's dtype: the inverse of `_encode_image`."""
        vae = self.pipeline.vae
        return vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to RGB float32 (B, 3, H, W), clamped to [-1, 1]."""
        return self._decode(latents.to(self.pipeline.vae.dtype)).float().clamp(-1, 1)

    def grid(self, steps: int, shape: Sequence[int] | None = None) -> Tensor:
        """The scheduler's sigmas for `steps` steps at latents of `shape`, float32 (steps + 1,), the last 0.

        Raises ValueError for steps that its schedule cannot be stretched over.
        """
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        tokens = (self.image_size // self._step) ** 2 if shape is None else self._image_tokens(shape)
        scheduler.set_timesteps(**self._schedule(steps, tokens, scheduler.config))
        if not scheduler.sigmas.isfinite().all():
            raise ValueError(f"{self.name} has no grid of {steps} steps: give method.steps 2 at least")
        return scheduler.sigmas.to(self.device, torch.float32)

    def vjp(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, cotangent: Tensor) -> Tensor:
        """As every backbone's, with `checkpoints`. Raises ValueError where the model was loaded for forward passes
        alone."""
        if self._forward_only:
            raise ValueError(f"{self.name} was loaded with weights or attention that have no derivatives")
        with _checkpointed(self.pipeline.transformer, self.checkpoints):
            return super().vjp(latents, sigma, conditioning, cotangent)

    def _jvp_rows(self, latents: Tensor, conditioning: Conditioning) -> int:
        """As many as keep a layer's attention scores, float32 at least in plain attention, within `_SCORE_BYTES`."""
        tokens = self._image_tokens(latents.shape[-2:]) + conditioning.tokens.shape[1]
        row = self._attention_heads * tokens**2 * max(4, latents.dtype.itemsize)
        most = max(1, min(len(latents), _SCORE_BYTES // row))
        return next(rows for rows in range(most, 0, -1) if len(latents) % rows == 0)

    @property
    def _attention_heads(self) -> int:
        return self.pipeline.transformer.config.num_attention_heads

    def _image_tokens(self, shape: Sequence[int]) -> int:
        return (shape[0] // 2) * (shape[1] // 2)

    def _schedule(self, steps: int, tokens: int, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the pipeline gives to `set_timesteps`: even sigmas, and a shift by the number of image tokens."""
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": shift_of(tokens, config)}

    def _levels(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """sigma, scalar or (B,), as float32 (B,)."""
        return sigma.to(latents.device, torch.float32).expand(len(latents))

    def _guidance_input(self, latents: Tensor) -> Tensor | None:
        """The embedded scale for each row, float32 (B,); None where it is no input."""
        if self.guidance_kind != "embedded" or self._embedded_guidance is None:
            return None
        return torch.full((len(latents),), self._embedded_guidance, device=latents.device, dtype=torch.float32)


@contextmanager
def _checkpointed(transformer: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpoints for the time of a call; a transformer whose user has set them keeps its own."""
    if not wanted or not transformer._supports_gradient_checkpointing or transformer.is_gradient_checkpointing:
        yield
        return
    transformer.enable_gradient_checkpointing()
    try:
        yield
    finally:
        transformer.disable_gradient_checkpointing()


def loaded_config(pipeline: Any) -> PartConfig:
    """The configurations of a loaded pipeline."""
    return lambda part: (getattr(pipeline, part) if part else pipeline).config


def vae_scale(config: PartConfig) -> int:
    """Pixels a latent, a side, of an AutoencoderKL."""
    return 2 ** (len(config("vae")["block_out_channels"]) - 1)


def shift_of(tokens: int, config: Mapping[str, Any]) -> float:
    """mu of a scheduler that shifts dynamically: linear in the image tokens. Source: diffusers, `calculate_shift`."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return tokens * slope + low - slope * few


def packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) to tokens of 2 x 2 latents, (B, h/2 * w/2, 4 C), channels first within a token."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Tokens back to (B, C, h, w); shape: (h, w)."""
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (shape[0] // 2, shape[1] // 2)), 2)


def padded(rows: Tensor, count: int) -> Tensor:
    """(n, ...) to (count, ...), zeros appended."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text, uncut."""
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)
