"""Measure the shipped models on held-out faces: what they are worth, in figures."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from eim_ops.backbones.base import Backbone
from eim_ops.backbones.sd3 import Sd3Backbone
from eim_ops.edit import to_images, to_pixels
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.faces.face import Face
from eim_ops.faces.grammar import caption
from eim_ops.faces.judge import Judge, load_judge
from eim_ops.metrics.jvp_accuracy import measure_jvp
from eim_ops.metrics.psnr import psnr
from eim_ops.mini.face_set import HELD_OUT_SEED, face_set
from eim_ops.mini.train_judge import measure_judge
from eim_ops.mini.train_vlm import measure_vlm
from eim_ops.named_models import load_backbone, load_captioner

Generate = Callable[[Sequence[str]], np.ndarray]
"""Prompts to uint8 images (B, 64, 64, 3)."""

_JUDGE_FACES, _VAE_FACES, _VLM_FACES, _DIT_FACES, _VELOCITY_FACES = 2048, 512, 512, 256, 16
_BATCH, _STEPS, _GUIDANCE = 64, 28, 3.0


def measure_vae(round_trip: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray) -> float:
    """Mean over images of the PSNR in dB of `round_trip`, images in [-1, 1], against uint8 (N, 64, 64, 3)."""
    images = to_images(pixels)
    returned = torch.cat([round_trip(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])
    return float(psnr(returned, images, 2.0).mean())


def measure_dit(generate: Generate, judge: Judge, faces: Sequence[Face]) -> dict[str, float]:
    """By attribute: how often the judge sees in a generated image what its prompt, a full caption, stated."""
    right = {attribute.name: 0 for attribute in ATTRIBUTES}
    for start in range(0, len(faces), _BATCH):
        some = faces[start : start + _BATCH]
        readings = judge.read(generate([caption(face) for face in some]))
        for i, face in enumerate(some):
            reading = readings.row(i)
            for a in ATTRIBUTES:
                seen = reading[a.name] if a.kind == "continuous" else a.values[int(reading[a.name])]
                right[a.name] += a.describes(a.index(getattr(face, a.name)), seen)
    return {name: count / len(faces) for name, count in right.items()}


def measure_velocity(backbone: Backbone, prompts: Sequence[str], repeats: int = 5) -> float:
    """Seconds of one velocity of a batch, a row a prompt, on two threads: the fastest of some."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    conditioning = backbone.encode_text(prompts)
    latents = backbone.encode_image(torch.zeros(len(prompts), 3, backbone.image_size, backbone.image_size))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        backbone.velocity(latents, torch.tensor(0.5), conditioning)
        times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return min(times)


def _generator(pipeline: Any) -> Generate:
    """Text to image by the diffusers pipeline itself, with guidance; noise seeded by each batch's place."""
    places: Iterator[int] = iter(range(1_000_000))

    def generate(prompts: Sequence[str]) -> np.ndarray:
        noise = torch.Generator().manual_seed(HELD_OUT_SEED + next(places))
        images = pipeline(
            prompt=list(prompts), num_inference_steps=_STEPS, guidance_scale=_GUIDANCE, generator=noise,
            max_sequence_length=1, output_type="pt",
        ).images  # fmt: skip
        return to_pixels(images * 2 - 1)

    return generate


def check() -> Mapping[str, Any]:
    """All figures: `judge` (accuracy or R2 by attribute), `vae_psnr` (dB), `vlm_accuracy` (stated attributes right),
    `vlm_rewrite` (target prompts exact), `dit_accuracy` by attribute with its mean and min,
    `velocity_seconds` of 16 faces on two threads, and `jvp`: what the ways to a derivative err and cost."""
    judge = load_judge()
    held_out = face_set(HELD_OUT_SEED, _JUDGE_FACES)
    backbone = load_backbone("mini-dit", None, "cpu", "float32")
    assert isinstance(backbone, Sd3Backbone)
    vlm = measure_vlm(load_captioner("mini-vlm", None, "auto"), held_out.first(_VLM_FACES))
    dit = measure_dit(_generator(backbone.pipeline), judge, held_out.faces[:_DIT_FACES])
    return {
        "judge": measure_judge(judge, held_out),
        "vae_psnr": measure_vae(lambda x: backbone.decode(backbone.encode_image(x)), held_out.pixels[:_VAE_FACES]),
        "vlm_accuracy": vlm["accuracy"],
        "vlm_rewrite": vlm["rewrite"],
        "dit_accuracy": dit,
        "dit_accuracy_mean": float(np.mean(list(dit.values()))),
        "dit_accuracy_min": min(dit.values()),
        "velocity_seconds": measure_velocity(backbone, [caption(face) for face in held_out.faces[:_VELOCITY_FACES]]),
        "jvp": measure_jvp(partial(load_backbone, "mini-dit", None, "cpu"), [caption(f) for f in held_out.faces[:4]]),
    }
