"""Encode, identify and manipulate a whole set of images in full batches: three units, and all of them in one call.

The units are what a job's stages call where each has processes of its own; `edit_images` calls one after another. Both
give the same bits, since every model call has `batch` rows, which do not depend on each other; but for HSDS on CUDA,
where fused attention's backward pass is not the same to the bit twice (docs/guarantees.md, 'Limits').
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import chain
from operator import add

import numpy as np
import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.encode import encode
from eim_ops.identify.draws import SourceDraws, draw_source
from eim_ops.identify.hsds import hsds_direction, hsds_levels
from eim_ops.identify.sds import dds_direction
from eim_ops.identify.text import text_direction
from eim_ops.joint import Conditioning, Direction, Inversion, JointLatent, Rows
from eim_ops.manipulate import manipulate
from eim_ops.method import Method
from eim_ops.metrics.psnr import psnr
from eim_ops.noise import levels
from eim_ops.task import EditedImage, EditTask, Target, wanted_targets


def full_batches(count: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """Index batches of exactly `size` over range(count), the last padded with copies: (indices, real rows).

    One batch shape for every call keeps a row's bits independent of its neighbours and their number.
    """
    for start in range(0, count, size):
        real = min(size, count - start)
        indices = torch.arange(start, start + size).clamp(max=count - 1)
        yield indices, real


def to_images(pixels: Sequence[np.ndarray] | np.ndarray | Tensor) -> Tensor:
    """uint8 (B, H, W, 3), or (H, W, 3) arrays, to float32 (B, 3, H, W) in [-1, 1], where they are."""
    stacked = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.stack(list(pixels)))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """float32 (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3)."""
    scaled = (images.nan_to_num(0).clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def round_trips(backbone: Backbone, images: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """uint8 (H, W, 3) arrays through the autoencoder and back, unedited: what an edit is measured against."""
    returned = [
        to_pixels(backbone.decode(backbone.encode_image(to_images([images[i] for i in indices]))))[:real]
        for indices, real in full_batches(len(images), batch)
    ]
    return np.concatenate(returned)


@dataclass(frozen=True)
class EncodedImages(Rows):
    """joint: of all images. recon_psnr: (B,) dB, NaN where the trajectory decodes to the source by construction.
    cost: (B,) evaluations of each row."""

    joint: JointLatent
    recon_psnr: Tensor
    cost: Tensor


@dataclass(frozen=True)
class ImageHalves(Rows):
    """The image halves of directions. image: (B, C, h, w). fell_back: (B,), HSDS did no better than DDS. residual:
    (B,), what the shift leaves unexplained on held-out noise, NaN where not measured. iterations, cost: (B,)."""

    image: Tensor
    fell_back: Tensor
    residual: Tensor
    iterations: Tensor
    cost: Tensor


def encode_images(
    backbone: Backbone, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int],
    method: Method, batch: int,
) -> EncodedImages:  # fmt: skip
    """uint8 (H, W, 3) arrays and their source prompts to joint latents."""
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
        encoded.append(EncodedImages(joint, decibels, _cost(backbone, before, batch))[:real])
    return EncodedImages.cat(encoded)


def _cost(backbone: Backbone, before: int, batch: int) -> Tensor:
    """Evaluations of each row of a full batch since `before`."""
    return torch.full((batch,), (backbone.evaluations - before) / batch)


def encode_prompts(backbone: Backbone, prompts: Sequence[str], batch: int) -> Conditioning:
    """Prompts to conditioning, in full batches."""
    batches = full_batches(len(prompts), batch)
    return Conditioning.cat([backbone.encode_text([prompts[i] for i in indices])[:real] for indices, real in batches])


def identify_targets(
    backbone: Backbone, clean: Tensor, source: Conditioning, targets: Sequence[Target], prompts: Conditioning,
    seeds: Sequence[int], method: Method, batch: int,
) -> ImageHalves:  # fmt: skip
    """The image half of each target. clean (z0), source and seeds are of the images; `prompts` are the targets'.

    The source's velocities are computed once an image, and their cost is shared by its targets.
    """
    if not method.moves_image:
        return _known_halves(torch.zeros_like(clean[[target.row for target in targets]]))
    asked = Counter(target.row for target in targets)
    drawn, source_cost = _draw_sources(backbone, clean, source, list(asked), seeds, method, batch)
    place = {row: its for its, row in enumerate(asked)}
    shares = source_cost / torch.tensor([*asked.values()])
    identified = []
    for indices, real in full_batches(len(targets), batch):
        before = backbone.evaluations
        rows = torch.tensor([place[targets[i].row] for i in indices])
        its_drawn, its_target = drawn[rows], prompts[indices]
        fell_back, iterations = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
        residual = torch.full((batch,), math.nan)
        if method.image_half == "dds":
            image = dds_direction(backbone, its_drawn, its_target)
        else:
            solved = hsds_direction(backbone, its_drawn, its_target, method)
            image, fell_back, iterations = solved.image, ~solved.accepted.cpu(), solved.iterations.cpu()
            residual = torch.where(solved.accepted, solved.residual, solved.dds_residual).cpu()
        cost = _cost(backbone, before, batch) + shares[rows]
        identified.append(ImageHalves(image, fell_back, residual, iterations, cost)[:real])
    return ImageHalves.cat(identified)


def _draw_sources(
    backbone: Backbone, clean: Tensor, source: Conditioning, asked: Sequence[int], seeds: Sequence[int],
    method: Method, batch: int,
) -> tuple[SourceDraws, Tensor]:  # fmt: skip
    """The draws of the images at the rows `asked`, and the evaluations of each."""
    sigmas = hsds_levels(method) if method.image_half == "hsds" else levels(method.draws, method.sigma_max)
    drawn, cost = [], []
    for indices, real in full_batches(len(asked), batch):
        before, rows = backbone.evaluations, [asked[i] for i in indices]
        its = draw_source(backbone, clean[rows], source[torch.tensor(rows)], [seeds[row] for row in rows], sigmas)
        drawn.append(its[:real])
        cost.append(_cost(backbone, before, batch)[:real])
    return SourceDraws.cat(drawn), torch.cat(cost)


def _known_halves(images: Tensor) -> ImageHalves:
    """Image halves (B, C, h, w) that take no evaluation here."""
    zeros, unknown = torch.zeros(len(images)), torch.full((len(images),), math.nan)
    return ImageHalves(images, zeros.bool(), unknown, torch.zeros(len(images), dtype=torch.int64), zeros)


def check_shared(tasks: Sequence[Sequence[EditTask]], known: Collection[str]) -> None:
    """Raises ValueError for an edit that names another shared direction than those `known`, or none where there are
    some."""
    for task in chain.from_iterable(tasks):
        if bool(task.shared) != bool(known) or not set(known) >= set(task.shared):
            mend = "name one of them for each of its target prompts" if known else "give them, or let it name none"
            raise ValueError(
                f"edit {task.edit_id!r} names the shared directions {list(task.shared)}; known are {sorted(known)}: "
                f"{mend}"
            )


def shared_halves(shared: Mapping[str, Tensor], tasks: Sequence[Sequence[EditTask]], like: Tensor) -> ImageHalves:
    """The image half of each of `wanted_targets(tasks)`, identified elsewhere: no evaluations here.

    shared: image halves (1, C, h, w) by their ids, which `check_shared` has seen.
    """
    return _known_halves(torch.cat([shared[str(target.shared)] for target in wanted_targets(tasks)]).to(like))


def edit_images(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    source_prompts: Sequence[str],
    tasks: Sequence[Sequence[EditTask]],
    method: Method,
    seeds: Sequence[int],
    batch: int,
    shared: Mapping[str, Tensor] | None = None,
) -> Iterator[EditedImage]:
    """Edit `images` (uint8 (H, W, 3) of one size that the backbone takes), each by its own tasks.

    Each image is encoded and its directions' source drawn once, each (image, target prompt) identified once, and all
    strengths are decoded in full batches of `batch`. Yields every task of every image once, images in order. shared:
    image halves (1, C, h, w) by the ids that tasks name. Raises PromptTooLongError for a prompt that would be cut,
    ValueError as `check_shared`.
    """
    check_shared(tasks, shared or ())
    targets = wanted_targets(tasks)
    if not targets:
        return
    encoded = encode_images(backbone, images, source_prompts, seeds, method, batch)
    joint, prompts = encoded.joint, encode_prompts(backbone, [target.prompt for target in targets], batch)
    if not shared:
        halves = identify_targets(backbone, joint.clean, joint.conditioning, targets, prompts, seeds, method, batch)
    else:
        halves = shared_halves(shared, tasks, joint.clean)
    yield from manipulate_images(backbone, encoded, halves, prompts, source_prompts, tasks, method, seeds, batch)


def manipulate_images(
    backbone: Backbone, encoded: EncodedImages, halves: ImageHalves, prompts: Conditioning,
    source_prompts: Sequence[str], tasks: Sequence[Sequence[EditTask]], method: Method, seeds: Sequence[int],
    batch: int,
) -> Iterator[EditedImage]:  # fmt: skip
    """Move and decode. halves, prompts: rows of `wanted_targets(tasks)`, the latter their encoded prompts."""
    index_of = {target: index for index, target in enumerate(wanted_targets(tasks))}
    wanted = [(row, task) for row, its_tasks in enumerate(tasks) for task in its_tasks]
    uses = Counter(target for row, task in wanted for target in task.targets(row))
    for indices, real in full_batches(len(wanted), batch):
        before = backbone.evaluations
        chosen = [wanted[i] for i in indices]
        parts = [torch.tensor([index_of[target] for target in task.targets(row)]) for row, task in chosen]
        joint = encoded.joint[torch.tensor([row for row, _ in chosen])]
        sources = [joint.conditioning[place : place + 1] for place in range(batch)]
        composed = [_composed(halves.image, *its, prompts) for its in zip(parts, sources, strict=True)]
        direction = Direction.cat(composed)
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
            its = halves[parts[position]]
            encode_cost = float(encoded.cost[row]) / len(tasks[row])
            shares = its.cost / torch.tensor([uses[target] for target in task.targets(row)])
            yield EditedImage(
                row=row,
                edit_id=task.edit_id,
                pixels=pixels[position],
                direction_id=_direction_id(backbone, source_prompts[row], task, seeds[row], method),
                direction_method=_direction_method(task, its, method),
                direction_residual=_known(its.residual.max()),
                direction_iterations=int(its.iterations.max()),
                recon_psnr=_known(encoded.recon_psnr[row]),
                evaluations=decode_cost + encode_cost + float(shares.sum()),
                finite=bool(finite[position]),
            )


def only_finite(edited: Iterable[EditedImage]) -> Iterator[EditedImage]:
    """The same edits. Raises ArithmeticError at one that is not finite, whose pixels say nothing."""
    for one in edited:
        if not one.finite:
            raise ArithmeticError(
                f"the edit {one.edit_id} of image {one.row} is not finite: take smaller strengths, or float32"
            )
        yield one


def _direction_id(backbone: Backbone, source: str, task: EditTask, seed: int, method: Method) -> str:
    if task.shared:
        return "+".join(task.shared)
    content = [backbone.name, backbone.revision, source, list(task.target_prompts), seed, asdict(method)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _direction_method(task: EditTask, halves: ImageHalves, method: Method) -> str:
    if task.shared:
        return "shared"
    if not method.moves_image:
        return "none"
    return "dds" if halves.fell_back.any() else method.image_half


def _known(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _composed(images: Tensor, rows: Tensor, source: Conditioning, prompts: Conditioning) -> Direction:
    """The sum of one image's directions at `rows`, as one row."""
    return reduce(add, (Direction(images[row[None]], text_direction(source, prompts[row[None]])) for row in rows))
