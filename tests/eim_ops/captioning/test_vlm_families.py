"""Tiny random-weight models of several families through the one captioner: chat template, batches, constrained JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    InternVLProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from eim_ops.captioning.base import Refused
from eim_ops.captioning.instructions import GENERAL, Instructions
from eim_ops.captioning.processors import image_only
from eim_ops.captioning.vlm import VlmCaptioner, load_vlm

IMAGES = [Image.new("RGB", (56, 56), colour) for colour in ("red", "green", "blue")]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


def byte_tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One token for each byte, then the special ones, some of them attributes by name."""
    alphabet = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", padding_side="left",
        extra_special_tokens=named,
    )  # fmt: skip
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
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)
    chat = template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = image_only(Qwen2_5_VLProcessor)(images, tokenizer, None, chat_template=chat)
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
    tokenizer = byte_tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
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
    processor = image_only(SmolVLMProcessor)(
        images, tokenizer, None, image_seq_len=1, chat_template=template("<image>")
    )
    return AutoModelForImageTextToText.from_config(config), processor


def internvl() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = byte_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "internvl",
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config={**vision, "model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    processor = image_only(InternVLProcessor)(
        images, tokenizer, None, image_seq_length=1, chat_template=template("<IMG_CONTEXT>")
    )
    return AutoModelForImageTextToText.from_config(config), processor


FAMILIES = [qwen, llava, smolvlm, internvl]
WITH_VIDEO = {"qwen": "Qwen2VLVideoProcessor", "smolvlm": "SmolVLMVideoProcessor", "internvl": "InternVLVideoProcessor"}


def captioner(family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]], **changes: object) -> VlmCaptioner:
    torch.manual_seed(0)
    model, processor = family()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # An untrained model ends no string by itself: it is made to like the closing quote.
    bias = torch.zeros(320)
    bias[tokenizer.convert_tokens_to_ids(['"', "a"])] = torch.tensor([0.6, 0.2])
    head = torch.nn.Linear(32, 320)
    head.weight.data, head.bias.data = model.get_output_embeddings().weight.data, bias
    model.set_output_embeddings(head)
    options = {"constrained": True, "max_new_tokens": 1100, **changes}
    return VlmCaptioner(model.eval(), processor, family.__name__, "0", GENERAL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_models_under_constraint_answer_with_json(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    model = captioner(family)
    prompts = model.describe(IMAGES)
    assert all(prompts)
    assert model.describe(IMAGES[1:2]) == prompts[1:2]
    requests = ["smile", "a much longer request, that makes the rows differ in length"]
    assert len(model.rewrite(["a face"] * 2, requests)) == 2
    again = ["a face"] * 2, ["smile", "hat"], ["a dog"] * 2, ["why"] * 2
    assert model.rewrite_again(*again) == model.rewrite_again(*again)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_constraint_their_babble_is_refused_row_by_row(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    with pytest.raises(Refused) as caught:
        captioner(family, constrained=False, max_new_tokens=8).describe(IMAGES)
    assert [type(answer) for answer in caught.value.answers] == [ValueError] * 3


def saved(made: VlmCaptioner, folder: Path) -> None:
    """A captioner in a folder, as the hub has its family."""
    family = made.name
    made.model.save_pretrained(folder)
    made.processor.tokenizer.save_pretrained(folder)
    made.processor.image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(made.processor.chat_template)
    family_class = type(made.processor)
    named = family_class.__mro__[1] if family in WITH_VIDEO else family_class
    kept = (
        "image_seq_len",
        "image_seq_length",
        "patch_size",
        "num_additional_image_tokens",
        "vision_feature_select_strategy",
    )
    settings = {name: value for name in kept if (value := getattr(made.processor, name, None)) is not None}
    settings["processor_class"] = named.__name__
    (folder / "processor_config.json").write_text(json.dumps(settings))
    if family in WITH_VIDEO:
        video = {"video_processor_type": WITH_VIDEO[family]}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_as_the_hub_has_it_loads_as_the_same_captioner(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]], tmp_path: Path
) -> None:
    made = captioner(family)
    saved(made, tmp_path)
    loaded = load_vlm(tmp_path, family.__name__, "0", "cpu")
    assert loaded.constrained and loaded.processor.tokenizer.padding_side == "left"
    chats = [[{"role": "user", "content": [{"type": "image", "image": image}]}] for image in IMAGES]
    inputs = [
        its.processor.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt")
        for its in (made, loaded)
    ]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])


@pytest.mark.parametrize("key", ["prompt", None])
def test_a_model_with_its_own_questions_is_constrained_where_they_ask_for_json(key: str | None, tmp_path: Path) -> None:
    made = captioner(llava)
    made.model.config.eim_instructions = asdict(Instructions("describe", "{prompt} ; {request}", key=key))
    saved(made, tmp_path)
    loaded = load_vlm(tmp_path, "own", "0", "cpu")
    assert (loaded.instructions.key, loaded.constrained) == (key, key is not None)


def with_code(folder: Path, *files: str) -> Path:
    """Puts code beside a model that leaves a file when it is run, and names it in `files` for every Auto class."""
    mark = folder / "code-was-run"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    classes = ("Config", "ModelForImageTextToText", "Processor", "ImageProcessor", "Tokenizer")
    for file in files:
        config = json.loads((folder / file).read_text())
        config["auto_map"] = {
            f"Auto{name}": ["code.Own", None] if name == "Tokenizer" else "code.Own" for name in classes
        }
        (folder / file).write_text(json.dumps(config))
    return mark


def test_code_that_a_model_needs_is_refused_without_a_question_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(captioner(llava), tmp_path)
    mark = with_code(tmp_path, "config.json")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "of_its_own"}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    with pytest.raises(ValueError, match="captioner own needs code of its own, which is never run; take a model whose"):
        load_vlm(tmp_path, "own", "0", "cpu")
    assert not mark.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_code_beside_a_family_that_transformers_has_is_not_run(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(captioner(family), tmp_path)
    mark = with_code(
        tmp_path, "config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert type(load_vlm(tmp_path, "m", "0", "cpu").model).__module__.startswith("transformers.models.")
    assert not mark.exists()


def test_weights_that_are_pickled_are_refused(tmp_path: Path) -> None:
    made = captioner(llava)
    saved(made, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(made.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_vlm(tmp_path, "m", "0", "cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_image_shows_changes_the_answers_scores(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    made = captioner(family)
    chats = [[{"role": "user", "content": [{"type": "image", "image": image}]}] for image in (*IMAGES, IMAGES[0])]
    inputs = made.processor.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        red, green, blue, again = made.model(**inputs).logits[:, -1]
    assert torch.allclose(red, again, atol=1e-5)
    assert min((red - green).abs().max(), (red - blue).abs().max(), (green - blue).abs().max()) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_beyond_the_models_context_is_refused_and_never_cut(
    family: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
) -> None:
    model = captioner(family, constrained=False, max_new_tokens=2)
    model.model.config.get_text_config().max_position_embeddings = 1000
    with pytest.raises(Refused) as caught:
        model.rewrite(["a face", "smile " * 200], ["hat", "hat"])
    short, long = (str(answer) for answer in caught.value.answers)
    assert "the question has" not in short
    assert "it takes 1000: shorten it" in long


def question(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


@pytest.mark.parametrize("seed", [None, 7])
def test_answers_do_not_change_with_the_models_own_settings_of_decoding(seed: int | None) -> None:
    plain, other = (captioner(llava, constrained=False, max_new_tokens=24) for _ in range(2))
    other.model.generation_config.update(
        repetition_penalty=50.0, do_sample=True, temperature=0.1, top_k=1, top_p=0.2
    )  # fmt: skip
    chats = [question("a face ; smile"), question("a face ; red hair")]
    answers = [[str(answer) for answer in its._answer(chats, seed)] for its in (plain, other)]
    assert answers[0] == answers[1]


def test_an_answer_has_what_its_own_question_leaves_of_the_context_and_says_where_that_cut_it() -> None:
    model = captioner(llava, constrained=False, max_new_tokens=20)
    chats = [question("a face"), question("a face ; " + "smile " * 20)]
    short, long = (
        model.processor.apply_chat_template([chat], add_generation_prompt=True, tokenize=True, return_dict=True)
        for chat in chats
    )
    count = len(long["input_ids"][0])
    assert len(short["input_ids"][0]) + 20 < count
    alone = str(model._answer(chats[:1])[0])
    model.model.config.get_text_config().max_position_embeddings = count + 5
    answers = [str(answer) for answer in model._answer(chats)]
    assert answers[0] == alone and "did not end its answer within 20 tokens; it starts" in alone
    assert f"did not end its answer within 5 tokens, all that a question of {count} leaves of its context" in answers[1]
    model.model.config.get_text_config().max_position_embeddings = count
    assert f"the question has {count} tokens, with the answer it takes {count}: shorten" in str(model._answer(chats)[1])
