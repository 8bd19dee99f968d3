"""Pipelines of every family, narrow and with random weights, and the image that each pipeline itself makes."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

PROMPTS = ["a portrait with broad smile , red hair", "a portrait", "a portrait with red hair"]
WIDTH = 16
"""Of every text encoder."""
_SPECIALS = ("<pad>", "<bos>", "<unk>", "<eos>", "<|im_start|>", "<|im_end|>")
_WORDS = (
    "system user assistant a portrait with broad smile red hair blue , . : Describe the image by detailing color shape "
    "size texture quantity text spatial relationships of objects and background"
)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
    "{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(length: int, wrapped: bool = True, side: str = "right") -> PreTrainedTokenizerFast:
    """One token a word, mark or line end; `wrapped` as CLIP's and T5's, else as a chat model's."""
    words = ["\n", *_WORDS.split()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*_SPECIALS, *words))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    if wrapped:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=length, padding_side=side, pad_token="<pad>", bos_token="<bos>",
        unk_token="<unk>", eos_token="<eos>", chat_template=_CHAT,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip


def _filled(module: nn.Module, seed: int) -> Any:
    """Weights that keep a signal's size, so that every part of a model shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1, generator=generator)
    return module.eval().requires_grad_(False)


def _clip(pooled_only: bool) -> Any:
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=32, projection_dim=WIDTH, bos_token_id=1, pad_token_id=0, eos_token_id=3,
    )  # fmt: skip
    return _filled((CLIPTextModel if pooled_only else CLIPTextModelWithProjection)(config), 1)


def _t5() -> Any:
    return _filled(T5EncoderModel(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)), 2)


def _vae(cls: Any = AutoencoderKL, channels: int = 4) -> Any:
    vae = cls(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=channels, norm_num_groups=2, sample_size=64,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
    if cls is AutoencoderKL:
        vae.register_to_config(scaling_factor=1.3, shift_factor=0.1)
    else:
        vae.bn.running_mean.copy_(torch.linspace(-1, 1, 4 * channels))
        vae.bn.running_var.copy_(torch.linspace(0.5, 2, 4 * channels))
    return _filled(vae, 3)


def _scheduler(**kwargs: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=16, **kwargs)


_LANGUAGE = dict(
    vocab_size=64, hidden_size=WIDTH, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2,
    max_position_embeddings=2048, bos_token_id=1, eos_token_id=3, pad_token_id=0,
)  # fmt: skip


def _sd3(**kwargs: Any) -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=12, **kwargs,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=_filled(transformer, 4), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(),
        text_encoder=_clip(False), tokenizer=tokenizer(32), text_encoder_2=_clip(False), tokenizer_2=tokenizer(32),
        text_encoder_3=_t5(), tokenizer_3=tokenizer(512),
    )  # fmt: skip


def _flux(guidance_embeds: bool) -> Any:
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=WIDTH, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = _scheduler(shift=3.0) if guidance_embeds else FlowMatchEulerDiscreteScheduler(shift=1.0)
    return FluxPipeline(
        transformer=_filled(transformer, 4), scheduler=scheduler, vae=_vae(), text_encoder=_clip(True),
        tokenizer=tokenizer(32), text_encoder_2=_t5(), tokenizer_2=tokenizer(512),
    )  # fmt: skip


def _flux2_transformer(guidance_embeds: bool) -> Any:
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return _filled(transformer, 4)


def _flux2_dev() -> Any:
    config = Mistral3Config(
        text_config=dict(model_type="mistral", num_hidden_layers=31, head_dim=8, **_LANGUAGE),
        vision_config=dict(
            model_type="pixtral", hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            image_size=32, patch_size=8,
        ),
    )  # fmt: skip
    return Flux2Pipeline(
        transformer=_flux2_transformer(True), scheduler=_scheduler(), vae=_vae(AutoencoderKLFlux2),
        text_encoder=_filled(Mistral3ForConditionalGeneration(config), 5), tokenizer=tokenizer(2048, False, "left"),
    )  # fmt: skip


def _qwen3(layers: int) -> Any:
    return _filled(Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, head_dim=8, **_LANGUAGE)), 5)


def _flux2_klein(is_distilled: bool) -> Any:
    return Flux2KleinPipeline(
        transformer=_flux2_transformer(False), scheduler=_scheduler(), vae=_vae(AutoencoderKLFlux2),
        text_encoder=_qwen3(28), tokenizer=tokenizer(2048, False), is_distilled=is_distilled,
    )  # fmt: skip


def _qwen_image() -> Any:
    text = dict(num_hidden_layers=2, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}, **_LANGUAGE)
    config = Qwen2_5_VLConfig(
        text_config=text, vision_start_token_id=60, vision_end_token_id=61, vision_token_id=62, image_token_id=62,
        video_token_id=63,
        vision_config=dict(depth=1, hidden_size=WIDTH, intermediate_size=32, num_heads=2, out_hidden_size=WIDTH),
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.3, 0.7],
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=_filled(transformer, 4), scheduler=_scheduler(shift_terminal=0.02), vae=_filled(vae, 3),
        text_encoder=_filled(Qwen2_5_VLForConditionalGeneration(config), 5), tokenizer=tokenizer(2048, False),
    )  # fmt: skip


def _z_image() -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[600, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        transformer=_filled(transformer, 4), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(),
        text_encoder=_qwen3(3), tokenizer=tokenizer(2048, False),
    )  # fmt: skip


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd3": _sd3,
    "sd3.5-medium": lambda: _sd3(dual_attention_layers=(0,), qk_norm="rms_norm"),
    "sd3.5-large": lambda: _sd3(qk_norm="rms_norm"),
    "flux-dev": lambda: _flux(True),
    "flux-schnell": lambda: _flux(False),
    "flux2-dev": _flux2_dev,
    "flux2-klein": lambda: _flux2_klein(True),
    "flux2-klein-base": lambda: _flux2_klein(False),
    "qwen-image": _qwen_image,
    "z-image": _z_image,
}
"""Builders by family; a real checkpoint of each has the same classes."""


def pipelines_image(pipe: Any, latents: torch.Tensor, size: tuple[int, int], steps: int, guidance: float) -> Any:
    """What the pipeline makes of PROMPTS, float32 (B, 3, H, W) in [0, 1]. guidance: as `method.free_guidance` where the
    family has true guidance, else the embedded scale."""
    batch, channels, h, w = latents.shape
    kwargs: dict[str, Any] = dict(guidance_scale=guidance, latents=latents.clone())
    if isinstance(pipe, FluxPipeline | QwenImagePipeline):
        kwargs["latents"] = pipe._pack_latents(latents.clone(), batch, channels, h, w)
    if isinstance(pipe, QwenImagePipeline):
        kwargs |= dict(true_cfg_scale=guidance, guidance_scale=None, negative_prompt=[""] * batch)
    if isinstance(pipe, ZImagePipeline):
        kwargs["guidance_scale"] = guidance - 1
    return pipe(
        prompt=list(PROMPTS), height=size[0], width=size[1], num_inference_steps=steps, output_type="pt", **kwargs
    ).images
