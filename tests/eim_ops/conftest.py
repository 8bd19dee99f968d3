"""Small models with random weights, in the layout of the real ones."""

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.faces.tokenizer import build_tokenizer
from eim_ops.mini.train_dit import PROMPT_TOKENS, MiniDit, assemble


def tiny_sd3(seed: int = 0) -> Sd3Backbone:
    """An SD3 pipeline of 2 narrow layers: 64 px images, 16x16x8 latents, the faces' vocabulary."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(PROMPT_TOKENS)
    model = MiniDit(len(tokenizer), tokenizer.eos_token_id)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=PROMPT_TOKENS, projection_dim=16, bos_token_id=1, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model.text_encoder, model.text_encoder_2 = CLIPTextModelWithProjection(text), CLIPTextModelWithProjection(text)
    model.transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=8, norm_num_groups=2, sample_size=64,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
    vae.register_to_config(scaling_factor=1.3, shift_factor=0.1)
    pipeline = assemble(model.eval(), vae.eval(), tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    return Sd3Backbone(pipeline, "tiny-sd3", "0")


@pytest.fixture(scope="session")
def backbone() -> Sd3Backbone:
    return tiny_sd3()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
