"""Encode, identify and manipulate a whole set of images in full batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.encode import encode
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Direction, JointLatent
from eim_ops.manipulate import manipulate
from eim_ops.method import Method


@dataclass(frozen=True)
class EditTask:
    """One edit of one image: target prompts (several compose their attributes) and a strength of any sign."""

    edit_id: str
    target_prompts: tuple[str, ...]
    strength: float


@dataclass(frozen=True)
class EditedImage:
    """The result of one task.

    row: index of the source image. pixels: uint8 (H, W, 3). recon_psnr: dB, the inversion decoded
    unedited against the VAE round trip. evaluations: the model evaluations of this edit with its share
    of its image's inversion and of its direction. finite: False where the latent held NaN or Inf (then
    the pixels mean nothing).
    """

    row: int
    edit_id: str
    pixels: np.ndarray
    direction_id: str
    direction_method: str
    recon_psnr: float
    evaluations: float
    finite: bool


def full_batches(count: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """Index batches of exactly `size` over range(count), the last padded with copies: (indices, real rows).

    One batch shape for every call keeps a row's bits independent of its neighbours and their number.
    """
    for start in range(0, count, size):
        real = min(size, count - start)
        indices = torch.arange(start, start + size).clamp(max=count - 1)
        yield indices, real


def to_images(pixels: Sequence[np.ndarray]) -> Tensor:
    """uint8 (H, W, 3) arrays to float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """float32 (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3)."""
    scaled = (images.nan_to_num(0).clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _psnr(images: Tensor, reference: Tensor) -> Tensor:
    """dB per row of images in [-1, 1]; capped at 100."""
    error = (images - reference).square().flatten(1).mean(1).clamp(min=4e-10)
    return 10 * torch.log10(4 / error)


def _encode_all(
    backbone: Backbone, images: Sequence[np.ndarray], prompts: Sequence[str], method: Method, batch: int
) -> tuple[JointLatent, Tensor]:
    joints, psnrs = [], []
    for indices, real in full_batches(len(images), batch):
        joint = encode(backbone, to_images([images[i] for i in indices]), [prompts[i] for i in indices], method)
        round_trip = backbone.decode(joint.clean)
        returned = backbone.decode(joint.clean - joint.residual)
        joints.append(joint[:real])
        psnrs.append(_psnr(returned, round_trip)[:real])
    return JointLatent.cat(joints), torch.cat(psnrs)


def _identify_all(
    backbone: Backbone, joint: JointLatent, pairs: Sequence[tuple[int, str]], seeds: Sequence[int],
    method: Method, batch: int,
) -> Direction:  # fmt: skip
    """A direction for each (image row, target prompt)."""
    directions = []
    for indices, real in full_batches(len(pairs), batch):
        rows = torch.tensor([pairs[i][0] for i in indices])
        source = joint[rows]
        target = backbone.encode_text([pairs[i][1] for i in indices])
        text = text_direction(source.conditioning, target)
        image = torch.zeros_like(source.clean)
        if method.image_half == "dds":
            image = dds_direction(
                backbone, source.clean, source.conditioning, target,
                [seeds[row] for row in rows.tolist()], method.draws, method.sigma_max,
            )  # fmt: skip
        directions.append(Direction(image, text)[:real])
    return Direction.cat(directions)


def _direction_id(backbone: Backbone, source: str, targets: Sequence[str], seed: int, method: Method) -> str:
    content = [backbone.name, backbone.revision, source, list(targets), seed, asdict(method)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def edit_images(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    source_prompts: Sequence[str],
    tasks: Sequence[Sequence[EditTask]],
    method: Method,
    seeds: Sequence[int],
    batch: int,
) -> Iterator[EditedImage]:
    """Edit `images` (uint8 (H, W, 3), the backbone's size), each by its own tasks.

    Each image is inverted once, each (image, target prompt) identified once, and all strengths are decoded
    in full batches of `batch`. Yields every task of every image once, images in order. Raises
    PromptTooLongError for a prompt that would be cut.
    """
    wanted = [(row, task) for row, its_tasks in enumerate(tasks) for task in its_tasks]
    if not wanted:
        return
    joint, recon_psnr = _encode_all(backbone, images, source_prompts, method, batch)
    pairs = list(dict.fromkeys((row, prompt) for row, task in wanted for prompt in task.target_prompts))
    index_of = {pair: index for index, pair in enumerate(pairs)}
    single = _identify_all(backbone, joint, pairs, seeds, method, batch)
    uses = {pair: 0 for pair in pairs}
    for row, task in wanted:
        for prompt in task.target_prompts:
            uses[row, prompt] += 1
    inversion_cost = method.steps * (3 if method.inversion == "fixed_point" else 2)
    direction_cost = 2 * method.draws if method.image_half == "dds" else 0
    decode_cost = method.steps * (1 if method.guidance == 1.0 else 2)

    for indices, real in full_batches(len(wanted), batch):
        chosen = [wanted[i] for i in indices]
        rows = torch.tensor([row for row, _ in chosen])
        direction = Direction.cat(
            [_composed(single, [index_of[row, prompt] for prompt in task.target_prompts]) for row, task in chosen]
        )
        ones = torch.ones(len(chosen), device=joint.clean.device)
        direction = direction.scaled(ones * method.image_scale, ones * method.text_scale)
        strength = torch.tensor([task.strength for _, task in chosen], device=joint.clean.device)
        edited = manipulate(backbone, joint[rows], direction, strength, method.guidance)
        pixels = to_pixels(backbone.decode(edited))
        finite = edited.isfinite().flatten(1).all(1)
        for position, (row, task) in enumerate(chosen[:real]):
            share = sum(direction_cost / uses[row, prompt] for prompt in task.target_prompts)
            yield EditedImage(
                row=row,
                edit_id=task.edit_id,
                pixels=pixels[position],
                direction_id=_direction_id(backbone, source_prompts[row], task.target_prompts, seeds[row], method),
                direction_method=method.image_half,
                recon_psnr=float(recon_psnr[row]),
                evaluations=decode_cost + share + inversion_cost / len(tasks[row]),
                finite=bool(finite[position]),
            )


def _composed(directions: Direction, indices: Sequence[int]) -> Direction:
    """The sum of the rows `indices`, as one row."""
    total = directions[torch.tensor(indices[:1])]
    for index in indices[1:]:
        total = total + directions[torch.tensor([index])]
    return total
