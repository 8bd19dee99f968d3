"""Train mini-dit's autoencoder: 64x64 RGB faces to a 16x16x8 latent and back."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from eim_ops.edit import to_images
from eim_ops.mini.attribute_weight import attribute_weight
from eim_ops.mini.face_set import FaceSet, face_set
from eim_ops.mini.history import training_run
from eim_ops.mini.loop import Batch, Schedule, Schedules, train

SCHEDULES = Schedules(
    cpu=Schedule(steps=2900, batch=16, lr=3e-3, warmup=100, ema=0.99, checkpoint_every=100, weight_decay=0.0),
    gpu=Schedule(
        steps=12_000, batch=128, lr=3e-3, warmup=300, ema=0.999, checkpoint_every=500, weight_decay=0.0, final_lr=0.01
    ),
)
DECODER_SCHEDULES = Schedules(
    cpu=replace(SCHEDULES.cpu, steps=3000, lr=2e-3, final_lr=0.01), gpu=replace(SCHEDULES.gpu, steps=6000, lr=2e-3)
)
CARD = "README.md"
"""In the autoencoder's folder: what trained it."""
_KL_WEIGHT = 1e-6


def build_vae() -> AutoencoderKL:
    """The untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def _error(difference: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of images' difference, and L1 of its own finite differences: thin lines (wrinkles, lids) count as much
    as areas."""
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + difference.square().mean() + edges


def train_vae(data: FaceSet, work: Path, schedule: Schedule, device: torch.device) -> tuple[AutoencoderKL, float]:
    """Train and return (autoencoder with measured scaling and shift, seconds). Each attribute counts alike, see
    `attribute_weight`."""
    torch.manual_seed(schedule.seed)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    weight = attribute_weight(lambda images: images).to(device)

    def loss(batch: Batch, noise: torch.Generator) -> torch.Tensor:
        images = to_images(batch[0]).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample(noise)).sample
        return _error((decoded - images) * weight) + _KL_WEIGHT * posterior.kl().mean()

    trained = train("vae", vae, partial(data.draw, batch=schedule.batch), loss, schedule, work)
    vae.load_state_dict(trained.ema.state_dict())
    vae.cpu().eval()
    with torch.no_grad():
        latents = vae.encode(data.images(np.arange(min(512, len(data.faces))))).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    return vae, trained.seconds


def train_decoder(vae: AutoencoderKL, data: FaceSet, work: Path, schedule: Schedule) -> float:
    """Train the decoder on, in place, with the encoder frozen: latents stay what mini-dit knows. Returns seconds."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.to(memory_format=torch.channels_last)
    weight = attribute_weight(lambda images: images).to(vae.device)

    def loss(batch: Batch, noise: torch.Generator) -> torch.Tensor:
        images = to_images(batch[0]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
        return _error((vae.decoder(latents) - images) * weight)

    trained = train("decoder", vae.decoder, partial(data.draw, batch=schedule.batch), loss, schedule, work)
    vae.decoder.load_state_dict(trained.ema.state_dict())
    vae.cpu().eval()
    return trained.seconds


def main(work: Path, device: torch.device, steps: int | None = None) -> None:
    """Train (or resume) and leave the autoencoder in `work/vae`, where mini-dit's training finds it."""
    schedule, count = SCHEDULES.on(device, steps)
    vae, seconds = train_vae(face_set(0, count, work), work, schedule, device)
    vae.save_pretrained(work / "vae")
    run = training_run(schedule, count, seconds, device)
    (work / "vae" / CARD).write_text(f"# The autoencoder of mini-dit\n\n- `eim mini train vae`: {run}\n")


def refine(work: Path, device: torch.device, steps: int | None = None) -> None:
    """Train the decoder in `work/vae` on, in place."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float32).to(device)
    schedule, count = DECODER_SCHEDULES.on(device, steps)
    seconds = train_decoder(vae, face_set(0, count, work), work, schedule)
    vae.save_pretrained(work / "vae")
    with (work / "vae" / CARD).open("a") as card:
        card.write(f"- `eim mini train decoder` after it: {training_run(schedule, count, seconds, device)}\n")
