"""The published sizes of the large models, as constructor arguments, and narrow ones of the same classes.

Transformers, autoencoders and schedulers: the `config.json` files of stabilityai/stable-diffusion-3.5-medium,
stabilityai/stable-diffusion-3.5-large and black-forest-labs/FLUX.1-dev; diffusers' own
`scripts/convert_sd3_to_diffusers.py` and `scripts/convert_flux_to_diffusers.py` build the transformers with the same
numbers. Text encoders: openai/clip-vit-large-patch14, laion/CLIP-ViT-bigG-14-laion2B-39B-b160k, google/t5-v1_1-xxl.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """One model. clips: SD3 has two with a projection, FLUX one without. size: side of its images in pixels.
    t5_tokens: that a prompt is padded to."""

    name: str
    family: Literal["sd3", "flux"]
    transformer: Config
    vae: Config
    scheduler: Config
    clips: tuple[Config, ...]
    t5: Config
    size: int
    t5_tokens: int


_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_CLIP_L = {
    **_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
_CLIP_G = {
    **_CLIP, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
_T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "sample_size": 1024, "use_quant_conv": False, "use_post_quant_conv": False,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_SD3_VAE = {**_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609}
_FLUX_VAE = {**_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}
_SD3 = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
    "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "qk_norm": "rms_norm",
}  # fmt: skip
_SD3_MEDIUM = {
    **_SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}  # fmt: skip
_SD3_LARGE = {
    **_SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192,
}  # fmt: skip
_FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
_FLUX_SCHEDULER = {
    "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}  # fmt: skip

MODELS: dict[str, Published] = {
    model.name: model
    for model in (
        Published("sd3.5-medium", "sd3", _SD3_MEDIUM, _SD3_VAE, {"shift": 3.0}, (_CLIP_L, _CLIP_G), _T5_XXL, 1024, 256),
        Published("sd3.5-large", "sd3", _SD3_LARGE, _SD3_VAE, {"shift": 3.0}, (_CLIP_L, _CLIP_G), _T5_XXL, 1024, 256),
        Published("flux.1-dev", "flux", _FLUX, _FLUX_VAE, _FLUX_SCHEDULER, (_CLIP_L,), _T5_XXL, 1024, 512),
    )
}
"""By name, at full size."""

_NARROW_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 64}
_NARROW_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4}


def narrow(model: Published) -> Published:
    """The same classes, a few thousandths of the width: for machines without a card. Widths fit each other as they do
    at full size; it says nothing of speed."""
    clips = tuple(
        {**clip, "hidden_size": 16, "projection_dim": 16, "intermediate_size": 32, "num_hidden_layers": 3,
         "num_attention_heads": 2}
        for clip in model.clips
    )  # fmt: skip
    parts = {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64}
    if model.family == "sd3":
        parts |= {"sample_size": 8, "attention_head_dim": 16, "caption_projection_dim": 32}
        parts |= {"pooled_projection_dim": 16 * len(clips), "pos_embed_max_size": 12}
        if "dual_attention_layers" in model.transformer:
            parts["dual_attention_layers"] = (0,)  # type: ignore[assignment]
    else:
        parts |= {"num_single_layers": 2, "attention_head_dim": 32, "pooled_projection_dim": 16}
        parts["axes_dims_rope"] = (8, 12, 12)  # type: ignore[assignment]
    return replace(
        model, transformer={**model.transformer, **parts}, vae={**model.vae, **_NARROW_VAE}, clips=clips,
        t5={**model.t5, **_NARROW_T5}, size=64, t5_tokens=32,
    )  # fmt: skip
