"""Train mini-dit's transformer and text encoders on face latents: rectified flow, SD3's own layout.

The result is a folder that `StableDiffusion3Pipeline.from_pretrained` loads. Conditioning is built
exactly as that pipeline builds it, so what is trained is what is run.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from eim_ops.edit import to_images
from eim_ops.faces.grammar import caption
from eim_ops.faces.tokenizer import build_tokenizer
from eim_ops.identify.spectrum import measure_spectrum, save_spectrum, unexplained
from eim_ops.mini.attribute_weight import attribute_weight
from eim_ops.mini.face_set import FaceSet, draw_faces, face_set
from eim_ops.mini.history import TrainingRun, read_history, training_run, write_history
from eim_ops.mini.loop import Batch, Schedule, Schedules, train
from eim_ops.mini.shipped import WEIGHTS, shipped_path
from eim_ops.mini.train_vae import CARD
from eim_ops.named_models import load_backbone

SCHEDULES = Schedules(
    cpu=Schedule(steps=10_000, batch=32, lr=6e-4, warmup=300, ema=0.999, clip=1.0, checkpoint_every=100),
    gpu=Schedule(steps=16_000, batch=1024, lr=1.5e-3, warmup=500, ema=0.999, clip=1.0, checkpoint_every=500,
                 final_lr=0.01),
)  # fmt: skip
PROMPT_TOKENS = 32
_TEXT_WIDTH, _WIDTH, _HEADS, _LAYERS = 96, 192, 6, 4
_CONDITION_DROPOUT, _SHUFFLE, _CLAUSE_DROPOUT = 0.1, 0.5, 0.1
_SPECTRUM_FACES, _SPECTRUM_BATCH = 1024, 32


class MiniDit(nn.Module):
    """The trained parts of mini-dit as one module: two text encoders and the transformer."""

    def __init__(self, vocabulary: int, eos_token_id: int) -> None:
        super().__init__()
        text = CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=_TEXT_WIDTH, intermediate_size=4 * _TEXT_WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=PROMPT_TOKENS, projection_dim=_TEXT_WIDTH,
            bos_token_id=1, eos_token_id=eos_token_id, pad_token_id=0,
        )  # fmt: skip
        self.text_encoder = CLIPTextModelWithProjection(text)
        self.text_encoder_2 = CLIPTextModelWithProjection(text)
        self.transformer = SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=_LAYERS,
            attention_head_dim=_WIDTH // _HEADS, num_attention_heads=_HEADS, joint_attention_dim=2 * _TEXT_WIDTH,
            caption_projection_dim=_WIDTH, pooled_projection_dim=2 * _TEXT_WIDTH, pos_embed_max_size=8,
            qk_norm="rms_norm",
        )  # fmt: skip

    def condition(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, 32) to tokens (B, 33, 192) and pooled (B, 192), as SD3's pipeline does without a T5:
        the encoders' penultimate states side by side, one zero token after them."""
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(ids, output_hidden_states=True)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
        return tokens, torch.cat([first.text_embeds, second.text_embeds], dim=-1)


def _latents(work: Path, count: int) -> Path:
    return work / f"latents-{count}.npy"


@torch.no_grad()
def scaled_mode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (B, 3, 64, 64) to latents (B, 8, 16, 16) as the transformer sees them."""
    mode = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
    return (mode - vae.config.shift_factor) * vae.config.scaling_factor


def encode_faces(vae: AutoencoderKL, data: FaceSet, work: Path) -> np.ndarray:
    """Latents of all faces, scaled as the transformer sees them: float32 (N, 8, 16, 16), kept in `work`."""
    path = _latents(work, len(data.faces))
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        latents = np.lib.format.open_memmap(partial, "w+", np.float32, (len(data.faces), 8, 16, 16))
        for start in range(0, len(data.faces), 256):
            rows = slice(start, start + 256)
            images = to_images(torch.from_numpy(np.array(data.pixels[rows])).to(vae.device))
            latents[rows] = scaled_mode(vae, images).cpu().numpy()
        latents.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def train_dit(
    data: FaceSet,
    latents: np.ndarray,
    weight: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    schedule: Schedule,
    device: torch.device,
    start: Path | None = None,
) -> None:
    """Train on (latent, caption) pairs with fresh captions each time, from the weights in `start` or from nothing.

    weight: of the loss at each place of a latent, (1, 1, 16, 16). Beside a CPU, in bfloat16 and compiled.
    """
    torch.manual_seed(schedule.seed)
    model = MiniDit(len(tokenizer), tokenizer.eos_token_id) if start is None else load_mini_dit(start, tokenizer)
    model.to(device)
    weight, aside = weight.to(device), device.type != "cpu"
    if aside:
        model.transformer.compile()

    def draw(rng: np.random.Generator) -> Batch:
        rows = np.sort(rng.choice(len(latents), schedule.batch, replace=False, shuffle=False))
        prompts = []
        for row in rows:
            drop = _CLAUSE_DROPOUT if rng.random() < 0.5 else 0.0
            text = caption(data.faces[row], rng, shuffle=bool(rng.random() < _SHUFFLE), drop=drop)
            prompts.append("" if rng.random() < _CONDITION_DROPOUT else text)
        ids = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
        return torch.from_numpy(latents[rows]), ids

    def loss(batch: Batch, noise: torch.Generator) -> Tensor:
        clean, ids = batch
        eps = torch.randn(clean.shape, generator=noise, device=device)
        sigma = torch.sigmoid(torch.randn(len(clean), generator=noise, device=device))
        level = sigma.view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=aside):
            tokens, pooled = model.condition(ids)
            velocity = model.transformer(
                hidden_states=(1 - level) * clean + level * eps, timestep=sigma * 1000,
                encoder_hidden_states=tokens, pooled_projections=pooled, return_dict=False,
            )[0]  # fmt: skip
        return ((velocity.float() - (eps - clean)).square() * weight).mean()

    train("dit", model, draw, loss, schedule, work)


def load_mini_dit(folder: Path, tokenizer: PreTrainedTokenizerFast) -> MiniDit:
    """The trained parts of a mini-dit folder, in float32."""
    model = MiniDit(len(tokenizer), tokenizer.eos_token_id)
    for name, part in model.named_children():
        kind: Any = type(part)
        loaded = kind.from_pretrained(folder / name, dtype=torch.float32, use_safetensors=True)
        part.load_state_dict(loaded.state_dict())
    return model


def assemble(model: MiniDit, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast) -> StableDiffusion3Pipeline:
    """The trained parts as a diffusers pipeline without a third text encoder."""
    return StableDiffusion3Pipeline(
        transformer=model.transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae,
        text_encoder=model.text_encoder, tokenizer=tokenizer, text_encoder_2=model.text_encoder_2,
        tokenizer_2=tokenizer, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def export(work: Path, target: Path, schedule: Schedule, faces: int, device: torch.device) -> None:
    """Write the EMA of the newest checkpoint in `work` to `target` as fp16 safetensors; training may go on.

    schedule, faces, device: what it was trained with, for its card.
    """
    tokenizer = build_tokenizer(PROMPT_TOKENS)
    model = MiniDit(len(tokenizer), tokenizer.eos_token_id)
    state = torch.load(work / "dit.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["ema"])
    vae = AutoencoderKL.from_pretrained(work / "vae")
    vae.register_to_config(_name_or_path="")  # else the path of this machine is shipped
    pipeline = assemble(model.eval(), vae, tokenizer)
    pipeline.to(dtype=torch.float16, silence_dtype_warnings=True).save_pretrained(target)
    save_spectrum(_conditional_spectrum(target, _latents(work, faces)), target)
    run = training_run(schedule, faces, state["seconds"], device, state["step"])
    runs = [*read_history(work), run]
    write_history(target, runs)
    shutil.copy(work / "vae" / CARD, target / "vae")
    (target / "README.md").write_text(_card(runs))


def _conditional_spectrum(target: Path, latents_file: Path) -> Tensor:
    """Of the model in `target`, on its own training faces with full captions."""
    backbone, left = load_backbone(str(target), device="cpu"), []
    faces, latents = draw_faces(0, _SPECTRUM_FACES), np.load(latents_file, mmap_mode="r")
    for start in range(0, _SPECTRUM_FACES, _SPECTRUM_BATCH):
        rows = range(start, start + _SPECTRUM_BATCH)
        some = torch.from_numpy(np.array(latents[rows]))
        left.append(unexplained(backbone, some, backbone.encode_text([caption(faces[row]) for row in rows]), rows))
    return measure_spectrum(torch.cat(left))


def _card(runs: Sequence[TrainingRun]) -> str:
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
---
# mini-dit

A 64x64 text-to-image model of cartoon faces in the layout of Stable Diffusion 3: `SD3Transformer2DModel`
({_LAYERS} layers, width {_WIDTH}, qk norm), two CLIP text encoders (2 layers, width {_TEXT_WIDTH}), `AutoencoderKL`
(16x16x8).

- Data: procedural faces (`eim_ops.faces`, attributes independent), captions drawn anew for each sample.
- Training: rectified flow, logit-normal sigma, 10 % condition dropout, AdamW, EMA, fp32 on a CPU, bf16 on a GPU:
  {"; then ".join(map(str, runs))}. Of the autoencoder, before: `vae/README.md`.
- Commands: `eim mini train vae`, then `eim mini train dit`, from nothing; `eim mini train dit --from-shipped` on top of
  these weights. All resume.
- Measured figures: `eim mini check` prints them; the README of the project quotes them.
"""


def main(work: Path, device: torch.device, steps: int | None = None, from_shipped: bool = False) -> None:
    """Train (or resume) the transformer in `work`, after its autoencoder; `from_shipped`, on top of what is shipped."""
    schedule, count = SCHEDULES.on(device, steps)
    start = shipped_path("mini-dit") if from_shipped else None
    if start is not None and not (work / "vae").exists():
        shutil.copytree(start / "vae", work / "vae")
        write_history(work, read_history(start))
    data = face_set(0, count, work)
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float32).eval()
    weight = attribute_weight(lambda images: scaled_mode(vae, images))
    latents = encode_faces(vae.to(device), data, work)
    train_dit(data, latents, weight, build_tokenizer(PROMPT_TOKENS), work, schedule, device, start)
    export(work, WEIGHTS / "mini-dit", schedule, count, device)
