"""A pipeline at its published size with random weights, made on the device: no download, and the same work."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from benchmarks.gpu.published import Published
from eim_ops.backbones.adapter import PipelineBackbone
from eim_ops.backbones.flux import FluxBackbone
from eim_ops.backbones.sd3 import Sd3Backbone

SOURCE = "a portrait photo of a person with brown hair , round glasses , blue background"
TARGET = "a portrait photo of a person with red hair , round glasses , blue background"
_SPECIALS = ("<bos>", "<pad>", "<eos>", "<unk>")


def build(model: Published, device: torch.device, dtype: torch.dtype) -> PipelineBackbone:
    """The model behind the adapter that its real weights would have, on `device` in `dtype`."""
    scheduler = FlowMatchEulerDiscreteScheduler(**model.scheduler)
    clips = [_tokenizer(77) for _ in model.clips]
    t5 = _tokenizer(512)
    torch.manual_seed(0)
    with torch.device(device), _default_dtype(dtype):
        vae = AutoencoderKL(**model.vae)
        encoder = T5EncoderModel(T5Config(**model.t5))
        if model.family == "sd3":
            first, second = (CLIPTextModelWithProjection(CLIPTextConfig(**clip)) for clip in model.clips)
            transformer: Any = SD3Transformer2DModel(**model.transformer)
        else:
            first, second = CLIPTextModel(CLIPTextConfig(**model.clips[0])), None
            transformer = FluxTransformer2DModel(**model.transformer)
    for part in (vae, encoder, first, second, transformer):
        if part is not None:
            part.to(device, dtype).eval().requires_grad_(False)
    if model.family == "sd3":
        pipeline: Any = StableDiffusion3Pipeline(
            transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=first, tokenizer=clips[0],
            text_encoder_2=second, tokenizer_2=clips[1], text_encoder_3=encoder, tokenizer_3=t5,
        )  # fmt: skip
    else:
        pipeline = FluxPipeline(
            transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=first, tokenizer=clips[0],
            text_encoder_2=encoder, tokenizer_2=t5,
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    adapter = Sd3Backbone if model.family == "sd3" else FluxBackbone
    return adapter(pipeline, model.name, "random", prompt_tokens=model.t5_tokens)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _tokenizer(length: int) -> PreTrainedTokenizerFast:
    """One token a word. Prompts are padded, so what a word's number is costs nothing."""
    words = dict.fromkeys((*_SPECIALS, *SOURCE.split(), *TARGET.split()))
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=length, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>",
    )  # fmt: skip
