"""Train mini-vlm: a tiny LLaVA that captions faces and rewrites captions by edit requests."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from eim_ops.captioning.base import Captioner
from eim_ops.captioning.instructions import Instructions
from eim_ops.captioning.vlm import VlmCaptioner
from eim_ops.edit import to_images
from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME
from eim_ops.faces.face import Face
from eim_ops.faces.grammar import REQUESTS, GrammarError, caption, parse, request, target_prompt
from eim_ops.faces.tokenizer import IMAGE, build_chat_tokenizer
from eim_ops.mini.face_set import HELD_OUT_SEED, FaceSet, face_set
from eim_ops.mini.history import TrainingRun, training_run
from eim_ops.mini.loop import Batch, Schedule, Schedules, train
from eim_ops.mini.shipped import export, parameter_count

SCHEDULES = Schedules(
    cpu=Schedule(steps=5000, batch=32, lr=1.5e-3, warmup=300, ema=0.995, checkpoint_every=100),
    gpu=Schedule(steps=8000, batch=256, lr=1.5e-3, warmup=500, ema=0.999, checkpoint_every=500),
)
INSTRUCTIONS = Instructions(describe="describe", rewrite="{prompt} ; {request}")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} :{% endif %}"
)

_PATCHES, _WIDTH, _IGNORED = 64, 128, -100
_REWRITE_SHARE = 3 / 8
"""Rewrites beside each step's captions."""
_HINT_WEIGHT = 0.5


def build_processor() -> LlavaProcessor:
    """Images to 64 patches; chats to word tokens."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor,
        build_chat_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_vlm(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """The untrained model."""
    tokenizer = processor.tokenizer
    specials = {key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    vision = CLIPVisionConfig(
        hidden_size=_WIDTH, intermediate_size=3 * _WIDTH, num_hidden_layers=3, num_attention_heads=4,
        image_size=64, patch_size=8, projection_dim=_WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=3 * _WIDTH, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, **specials,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=_PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        eim_instructions=asdict(INSTRUCTIONS),
        **specials,
    )
    model = LlavaForConditionalGeneration(config)
    for key, value in specials.items():
        setattr(model.generation_config, key, value)
    return model


class TrainedVlm(nn.Module):
    """The model, and a head that reads every value from the patches' mean: it teaches the eye and is not shipped."""

    def __init__(self, vlm: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.vlm = vlm
        self.hint = nn.Linear(_WIDTH, sum(len(a.values) for a in ATTRIBUTES))

    def describe_loss(self, images: Tensor, ids: Tensor, labels: Tensor, grades: Tensor) -> Tensor:
        """Captions' cross-entropy plus the hint's. ids (B, L) start with <bos> and the image tokens."""
        patches = self.vlm.model.vision_tower(images).last_hidden_state[:, 1:]
        words = self.vlm.get_input_embeddings()(ids)
        seen = self.vlm.model.multi_modal_projector(patches)
        embeds = torch.cat([words[:, :1], seen, words[:, 1 + _PATCHES :]], dim=1)
        value = _next_word_loss(self.vlm(inputs_embeds=embeds).logits, labels)
        hints = self.hint(patches.mean(1)).split([len(a.values) for a in ATTRIBUTES], dim=1)
        read = [F.cross_entropy(part, grades[:, i]) for i, part in enumerate(hints)]
        return value + _HINT_WEIGHT * torch.stack(read).mean()

    def rewrite_loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Target prompts' cross-entropy; rows are padded on the right, where nothing attends to the padding."""
        return _next_word_loss(self.vlm(input_ids=ids).logits, labels)


def _next_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)


def draw_rewrite(face: Face, rng: np.random.Generator) -> tuple[str, str, str]:
    """(source prompt, request, target prompt): any clause order, half with clauses left out, any value asked for."""
    drop = 0.3 if rng.random() < 0.5 else 0.0
    source = caption(face, rng, shuffle=bool(rng.random() < 0.5), drop=drop)
    attribute = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
    index = int(rng.integers(len(attribute.values)))
    template = REQUESTS[int(rng.integers(len(REQUESTS)))]
    return source, request(attribute.clauses[index], template), target_prompt(source, attribute.name, index)


def train_vlm(data: FaceSet, work: Path, schedule: Schedule, device: torch.device) -> tuple[VlmCaptioner, float]:
    """Train and return (captioner, seconds)."""
    torch.manual_seed(schedule.seed)
    processor = build_processor()
    model = TrainedVlm(build_vlm(processor)).to(device)
    tokenizer = processor.tokenizer
    eos, pad = tokenizer.eos_token, tokenizer.pad_token_id
    asked = f"{tokenizer.bos_token}{IMAGE * _PATCHES}{INSTRUCTIONS.describe} :"
    asked_length = len(tokenizer(asked).input_ids)
    captions = torch.tensor([tokenizer(f"{asked} {caption(face)}{eos}").input_ids for face in data.faces])
    grades = torch.tensor([[a.index(getattr(face, a.name)) for a in ATTRIBUTES] for face in data.faces])

    def rewrites(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = []
        for _ in range(round(_REWRITE_SHARE * schedule.batch)):
            source, wish, target = draw_rewrite(data.faces[rng.integers(len(data.faces))], rng)
            question = f"{tokenizer.bos_token}{INSTRUCTIONS.rewrite.format(prompt=source, request=wish)} :"
            rows.append((tokenizer(question).input_ids, tokenizer(f"{target}{eos}").input_ids))
        ids = torch.full((len(rows), max(len(q) + len(a) for q, a in rows)), pad)
        labels = torch.full_like(ids, _IGNORED)
        for i, (question_ids, answer_ids) in enumerate(rows):
            end = len(question_ids) + len(answer_ids)
            ids[i, :end] = torch.tensor(question_ids + answer_ids)
            labels[i, len(question_ids) : end] = torch.tensor(answer_ids)
        return ids, labels

    def draw(rng: np.random.Generator) -> Batch:
        pixels, rows = data.draw(rng, schedule.batch)
        labels = captions[rows].clone()
        labels[:, :asked_length] = _IGNORED
        return pixels, captions[rows], labels, grades[rows], *rewrites(rng)

    def loss(batch: Batch, noise: torch.Generator) -> Tensor:
        pixels, ids, labels, stated, rewrite_ids, rewrite_labels = batch
        described = model.describe_loss(to_images(pixels), ids, labels, stated)
        return described + model.rewrite_loss(rewrite_ids, rewrite_labels)

    trained = train("vlm", model, draw, loss, schedule, work)
    model.load_state_dict(trained.ema.state_dict())
    model.cpu()
    return VlmCaptioner(model.vlm.eval(), processor, "mini-vlm", "training", INSTRUCTIONS), trained.seconds


def stated_right(face: Face, prompt: str) -> list[bool]:
    """For each attribute, whether `prompt` states it rightly; left out counts as wrong, and so does a broken prompt."""
    try:
        stated = parse(prompt)
    except GrammarError:
        return [False] * len(ATTRIBUTES)
    return [a.name in stated and a.describes(stated[a.name], getattr(face, a.name)) for a in ATTRIBUTES]


def measure_vlm(captioner: Captioner, data: FaceSet, batch: int = 64) -> dict[str, float]:
    """`accuracy` of captions, over all attributes and for each, and `rewrite`: the fraction of exact targets."""
    right: list[list[bool]] = []
    exact: list[bool] = []
    for start in range(0, len(data.faces), batch):
        faces = data.faces[start : start + batch]
        prompts = captioner.describe([Image.fromarray(pixels) for pixels in data.pixels[start : start + batch]])
        right += [stated_right(face, prompt) for face, prompt in zip(faces, prompts, strict=True)]
        # The last 1 keeps it apart from what the face itself was drawn by.
        seeds = [(HELD_OUT_SEED, start + i, 1) for i in range(len(faces))]
        drawn = [draw_rewrite(face, np.random.default_rng(seed)) for face, seed in zip(faces, seeds, strict=True)]
        written = captioner.rewrite([source for source, _, _ in drawn], [wish for _, wish, _ in drawn])
        exact += [text == target for text, (_, _, target) in zip(written, drawn, strict=True)]
    by_attribute = dict(zip(BY_NAME, np.mean(right, axis=0).tolist(), strict=True))
    return {"accuracy": float(np.mean(right)), "rewrite": float(np.mean(exact)), **by_attribute}


def _card(captioner: VlmCaptioner, run: TrainingRun, scores: dict[str, float]) -> str:
    rows = "\n".join(f"| {name} | {scores[name]:.3f} |" for name in BY_NAME)
    return f"""# mini-vlm

A tiny image-text-to-text model of the faces world: image -> prompt that states every attribute; (source prompt, edit
request) -> target prompt, the same but for the edit.

- Format: `transformers`, `AutoProcessor` and `AutoModelForImageTextToText` (LLaVA: CLIP vision tower, Llama,
  {parameter_count(captioner.model):,} parameters), word-level tokenizer, chat template, fp16 safetensors.
- Chats: an image and "{INSTRUCTIONS.describe}", or the text "{INSTRUCTIONS.rewrite}"; kept as `eim_instructions` in
  the configuration.
- Data: procedural faces, independent attributes, seed 0; three rewrites drawn from captions for eight captions.
- Training, `eim mini train vlm`: {run}

Measured on 512 held-out faces (seed {HELD_OUT_SEED:,}): {scores["accuracy"]:.3f} of the attributes stated rightly,
{scores["rewrite"]:.3f} of the rewrites exact (any clause order, clauses left out, three request forms).

| attribute | stated rightly |
| --- | --- |
{rows}
"""


def main(work: Path, device: torch.device, steps: int | None = None) -> None:
    """Train, measure on held-out faces and export into the weights folder."""
    schedule, count = SCHEDULES.on(device, steps)
    captioner, seconds = train_vlm(face_set(0, count, work), work, schedule, device)
    scores = measure_vlm(captioner, face_set(HELD_OUT_SEED, 512))
    run = training_run(schedule, count, seconds, device)
    path = export("mini-vlm", captioner.model, _card(captioner, run, scores))
    captioner.processor.save_pretrained(path)
    print(f"{path}: {scores}")
