"""Encode, identify and manipulate a whole set of images in full batches."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.encode import encode
from eim_ops.identify.hsds import hsds_direction
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Direction, Inversion, JointLatent, Rows
from eim_ops.manipulate import manipulate
from eim_ops.method import Method
from eim_ops.metrics.psnr import psnr


@dataclass(frozen=True)
class EditTask:
    """One edit of one image: target prompts (several compose their attributes) and a strength of any sign."""

    edit_id: str
    target_prompts: tuple[str, ...]
    strength: float


@dataclass(frozen=True)
class EditedImage:
    """The result of one task.

    row: index of the source image. pixels: uint8 (H, W, 3). direction_method: hsds, dds (also where HSDS did no
    better) or none; direction_residual: what HSDS or its stand-in leaves unexplained on held-out noise, in units of no
    shift; direction_iterations: of the solver; of composed edits the worst part's. recon_psnr: dB, the inversion
    decoded unedited against the VAE round trip; None for a coupled trajectory, which has no such error. evaluations:
    the model evaluations of this edit with its share of its image's encoding and of its direction. finite: False
    where the latent or its decoded image held NaN or Inf (then the pixels mean nothing).
    """

    row: int
    edit_id: str
    pixels: np.ndarray
    direction_id: str
    direction_method: str
    direction_residual: float | None
    direction_iterations: int
    recon_psnr: float | None
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


def round_trips(backbone: Backbone, images: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, 3) arrays through the autoencoder and back, unedited: what an edit is measured against."""
    return to_pixels(backbone.decode(backbone.encode_image(to_images(images))))


@dataclass(frozen=True)
class _Encoded(Rows):
    """joint: of all images. recon_psnr: (B,) dB, NaN where the trajectory decodes to the source by construction.
    cost: (B,) evaluations of each row."""

    joint: JointLatent
    recon_psnr: Tensor
    cost: Tensor


@dataclass(frozen=True)
class _Identified(Rows):
    """direction: of each (image, target prompt). fell_back: (B,), HSDS did no better than DDS. residual: (B,), what the
    shift leaves unexplained on held-out noise, NaN where that was not measured. iterations, cost: (B,)."""

    direction: Direction
    fell_back: Tensor
    residual: Tensor
    iterations: Tensor
    cost: Tensor


def _encode_all(
    backbone: Backbone, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int],
    method: Method, batch: int,
) -> _Encoded:  # fmt: skip
    encoded = []
    for indices, real in full_batches(len(images), batch):
        before = backbone.evaluations
        joint = encode(
            backbone, to_images([images[i] for i in indices]), [prompts[i] for i in indices],
            [seeds[i] for i in indices], method,
        )  # fmt: skip
        decibels = torch.full((batch,), math.nan)
        if isinstance(joint.trajectory, Inversion):
            returned = backbone.decode(joint.clean - joint.trajectory.residual)
            decibels = psnr(returned, backbone.decode(joint.clean), 2.0).cpu()
        encoded.append(_Encoded(joint, decibels, _cost(backbone, before, batch))[:real])
    return _Encoded.cat(encoded)


def _cost(backbone: Backbone, before: int, batch: int) -> Tensor:
    """Evaluations of each row of a full batch since `before`."""
    return torch.full((batch,), (backbone.evaluations - before) / batch)


def _identify_all(
    backbone: Backbone, joint: JointLatent, pairs: Sequence[tuple[int, str]], seeds: Sequence[int],
    method: Method, batch: int,
) -> _Identified:  # fmt: skip
    """A direction for each (image row, target prompt)."""
    identified = []
    for indices, real in full_batches(len(pairs), batch):
        before = backbone.evaluations
        rows = torch.tensor([pairs[i][0] for i in indices])
        source, its_seeds = joint[rows], [seeds[row] for row in rows.tolist()]
        target = backbone.encode_text([pairs[i][1] for i in indices])
        image = torch.zeros_like(source.clean)
        fell_back, iterations = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
        residual = torch.full((batch,), math.nan)
        if method.image_half == "dds":
            draws, top = method.draws, method.sigma_max
            image = dds_direction(backbone, source.clean, source.conditioning, target, its_seeds, draws, top)
        elif method.image_half == "hsds":
            solved = hsds_direction(backbone, source.clean, source.conditioning, target, its_seeds, method)
            image, fell_back, iterations = solved.image, ~solved.accepted.cpu(), solved.iterations.cpu()
            residual = torch.minimum(solved.residual, solved.dds_residual).cpu()
        direction = Direction(image, text_direction(source.conditioning, target))
        cost = _cost(backbone, before, batch)
        identified.append(_Identified(direction, fell_back, residual, iterations, cost)[:real])
    return _Identified.cat(identified)


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

    Each image is encoded once, each (image, target prompt) identified once, and all strengths are decoded
    in full batches of `batch`. Yields every task of every image once, images in order. Raises
    PromptTooLongError for a prompt that would be cut.
    """
    wanted = [(row, task) for row, its_tasks in enumerate(tasks) for task in its_tasks]
    if not wanted:
        return
    encoded = _encode_all(backbone, images, source_prompts, seeds, method, batch)
    pairs = list(dict.fromkeys((row, prompt) for row, task in wanted for prompt in task.target_prompts))
    index_of = {pair: index for index, pair in enumerate(pairs)}
    identified = _identify_all(backbone, encoded.joint, pairs, seeds, method, batch)
    uses = Counter((row, prompt) for row, task in wanted for prompt in task.target_prompts)
    shares = identified.cost / torch.tensor([uses[pair] for pair in pairs])

    for indices, real in full_batches(len(wanted), batch):
        before = backbone.evaluations
        chosen = [wanted[i] for i in indices]
        parts = [torch.tensor([index_of[row, prompt] for prompt in task.target_prompts]) for row, task in chosen]
        direction = Direction.cat([_composed(identified.direction, its_parts) for its_parts in parts])
        joint = encoded.joint[torch.tensor([row for row, _ in chosen])]
        ones = torch.ones(batch, device=joint.clean.device)
        direction = direction.scaled(ones * method.image_scale, ones * method.text_scale)
        strength = torch.tensor([task.strength for _, task in chosen], device=joint.clean.device)
        edited = manipulate(backbone, joint, direction, strength, method.guidance)
        decoded = backbone.decode(edited)
        pixels = to_pixels(decoded)
        # A decoder of few bits can overflow on a latent that is finite.
        finite = edited.isfinite().flatten(1).all(1).cpu() & decoded.isfinite().flatten(1).all(1).cpu()
        decode_cost = (backbone.evaluations - before) / batch
        for position, (row, task) in enumerate(chosen[:real]):
            its_parts = parts[position]
            fell_back = bool(identified.fell_back[its_parts].any())
            encode_cost = float(encoded.cost[row]) / len(tasks[row])
            yield EditedImage(
                row=row,
                edit_id=task.edit_id,
                pixels=pixels[position],
                direction_id=_direction_id(backbone, source_prompts[row], task.target_prompts, seeds[row], method),
                direction_method="dds" if fell_back else method.image_half,
                direction_residual=_known(identified.residual[its_parts].max()),
                direction_iterations=int(identified.iterations[its_parts].max()),
                recon_psnr=_known(encoded.recon_psnr[row]),
                evaluations=decode_cost + encode_cost + float(shares[its_parts].sum()),
                finite=bool(finite[position]),
            )


def _known(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _composed(directions: Direction, rows: Tensor) -> Direction:
    """The sum of some rows, as one row."""
    total = directions[rows[:1]]
    for row in rows[1:]:
        total = total + directions[row[None]]
    return total
