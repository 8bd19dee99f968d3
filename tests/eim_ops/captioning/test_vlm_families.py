"""Tiny random-weight models of several families through the one captioner: chat template, batches, constrained JSON."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from eim_ops.captioning.base import Refused
from eim_ops.captioning.instructions import GENERAL
from eim_ops.captioning.vlm import VlmCaptioner

IMAGES = [Image.new("RGB", (56, 56), colour) for colour in ("red", "green", "blue")]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


def byte_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """One token for each byte, then the special ones."""
    alphabet = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", padding_side="left"
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def template(image: str) -> str:
    """A chat template that shows an image as this text."""
    return (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end>{% endfor %}"
    )


def qwen() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = byte_tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    token = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = AutoConfig.for_model(
        "qwen2_5_vl",
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**vision, "fullatt_block_indexes": [0]},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    processor = Qwen2_5_VLProcessor.__new__(Qwen2_5_VLProcessor)
    processor.image_processor, processor.tokenizer, processor.video_processor = (
        Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer,
        None,
    )
    processor.chat_template = template("<|vision_start|><|image_pad|><|vision_end|>")
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id, processor.video_token_id = token("<|image_pad|>"), token("<|video_pad|>")
    return AutoModelForImageTextToText.from_config(config), processor


def llava() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = byte_tokenizer("<image>")
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "llava",
        text_config={**TEXT, "model_type": "llama"},
        vision_config={**vision, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return AutoModelForImageTextToText.from_config(config), processor


def smolvlm() -> tuple[PreTrainedModel, ProcessorMixin]:
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = byte_tokenizer(*special)
    for name, text in zip(("image_token", "fake_image_token", "global_image_token"), special, strict=False):
        setattr(tokenizer, name, text)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(text))
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "smolvlm",
        text_config={**TEXT, "model_type": "llama"},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    processor = SmolVLMProcessor.__new__(SmolVLMProcessor)
    processor.image_processor, processor.tokenizer = images, tokenizer
    processor.video_processor = SimpleNamespace(num_frames=1, fps=1)  # asked for, even without videos
    processor.chat_template, processor.image_seq_len = template("<image>"), 1
    processor.image_token, processor.fake_image_token, processor.global_image_token = special[:3]
    processor.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    processor.fake_image_token_id = tokenizer.convert_tokens_to_ids(special[1])
    processor.global_image_token_id = tokenizer.convert_tokens_to_ids(special[2])
    processor.end_of_utterance_token, processor.video_token = special[3], "<video>"
    return AutoModelForImageTextToText.from_config(config), processor


def captioner(family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]], **changes: object) -> VlmCaptioner:
    torch.manual_seed(0)
    model, processor = family()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # An untrained model ends no string by itself: it is made to like the closing quote.
    bias = torch.zeros(320)
    bias[tokenizer.convert_tokens_to_ids(['"', "a"])] = torch.tensor([0.3, 0.2])
    head = torch.nn.Linear(32, 320)
    head.weight.data, head.bias.data = model.get_output_embeddings().weight.data, bias
    model.set_output_embeddings(head)
    options = {"constrained": True, "max_new_tokens": 1100, **changes}
    return VlmCaptioner(model.eval(), processor, family.__name__, "0", GENERAL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [qwen, llava, smolvlm])
def test_untrained_models_under_constraint_answer_with_json(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    model = captioner(family)
    prompts = model.describe(IMAGES)
    assert all(prompts)
    assert model.describe(IMAGES[1:2]) == prompts[1:2]
    requests = ["smile", "a much longer request, that makes the rows differ in length"]
    assert len(model.rewrite(["a face"] * 2, requests)) == 2
    assert model.rewrite_again("a face", "smile", "a dog", "why") == model.rewrite_again(
        "a face", "smile", "a dog", "why"
    )


@pytest.mark.parametrize("family", [qwen, llava, smolvlm])
def test_without_constraint_their_babble_is_refused_row_by_row(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    with pytest.raises(Refused) as caught:
        captioner(family, constrained=False, max_new_tokens=8).describe(IMAGES)
    assert [type(answer) for answer in caught.value.answers] == [ValueError] * 3
