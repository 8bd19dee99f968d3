"""How disentangled a latent space is: what else moves when one attribute is moved. Definitions are ours.

The paper names a disentanglement metric (SDE) and a pair, decomposability and effectiveness, without equations in its
public page; these are our readings of those names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from eim_ops.backbones.base import Backbone
from eim_ops.edit import edit_images, only_finite, round_trips
from eim_ops.method import Method
from eim_ops.task import EditTask

Reader = Callable[[np.ndarray], np.ndarray]
"""uint8 images (B, H, W, 3) to readings (B, A) of A attributes, each in units of its spread: a judge, CLIP, or VQA."""


@dataclass(frozen=True)
class Disentanglement:
    """matrix: (A, A), row i the mean change of every attribute for one unit of change of attribute i, where that was
    asked; NaN where it never moved the asked way. degree: 1 less the mean off the diagonal; 1 moves nothing else."""

    attributes: tuple[str, ...]
    matrix: np.ndarray
    degree: float


def disentanglement(
    asked: Sequence[str], on_target: np.ndarray, changes: np.ndarray, attributes: Sequence[str]
) -> Disentanglement:
    """From edits n: the attribute that was asked, how far it went the asked way (N,), how far each went (N, A).

    A row of the matrix is a ratio of means, so that edits that hardly moved don't decide it.
    """
    matrix = np.full((len(attributes), len(attributes)), np.nan)
    for place, attribute in enumerate(attributes):
        own = np.array([name == attribute for name in asked])
        if own.any() and on_target[own].mean() > 0:
            matrix[place] = np.abs(changes[own]).mean(0) / on_target[own].mean()
            matrix[place, place] = 1.0
    off = matrix[~np.eye(len(attributes), dtype=bool)]
    degree = 1 - float(np.nanmean(off)) if np.isfinite(off).any() else float("nan")
    return Disentanglement(tuple(attributes), matrix, degree)


def measure_disentanglement(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    source_prompts: Sequence[str],
    target_prompts: Sequence[Mapping[str, str]],
    read: Reader,
    attributes: Sequence[str],
    method: Method,
    batch: int,
) -> dict[str, Disentanglement]:
    """The matrix of the `text` half, the `image` half and the `joint` latent of any backbone at strength 1.

    images: uint8 (H, W, 3). target_prompts: of each image, by the attribute that they change. A change is the reading's
    distance from that of the unedited round trip; without knowing which way is right, every way counts as on target.
    """
    halves = {
        "text": replace(method, image_half="none"),
        "image": replace(method, text_scale=0.0, guidance=1.0, free_guidance=1.0),
        "joint": method,
    }
    tasks = [[EditTask(name, (prompt,), 1.0) for name, prompt in its.items()] for its in target_prompts]
    asked = [(row, name) for row, its in enumerate(target_prompts) for name in its]
    before = read(round_trips(backbone, images, batch))
    found = {}
    for half, its in halves.items():
        edited = {(one.row, one.edit_id): one.pixels for one in only_finite(edit_images(
            backbone, images, source_prompts, tasks, its, range(len(images)), batch))}  # fmt: skip
        after = read(np.stack([edited[key] for key in asked]))
        changes = np.abs(after - before[[row for row, _ in asked]])
        places = [list(attributes).index(name) for _, name in asked]
        on_target = changes[np.arange(len(asked)), places]
        found[half] = disentanglement([name for _, name in asked], on_target, changes, attributes)
    return found


@dataclass(frozen=True)
class TextConditions:
    """effectiveness: how far a changed text condition moves what an image is reconstructed to, in units of the distance
    between two different images of the set. decomposability: 1 less what two changes made together differ from their
    sum, in units of the change itself; 1 where effects simply add. Means over images."""

    effectiveness: float
    decomposability: float


def text_conditions(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    source_prompts: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    method: Method,
    batch: int,
) -> TextConditions:
    """Reconstruct each image under its source prompt with one change, another, and both; needs no reader.

    pairs: of each image two target prompts that change different attributes. The text half alone moves. At least two
    images.
    """
    text = replace(method, image_half="none")
    tasks = [[EditTask("0", (a,), 1.0), EditTask("1", (b,), 1.0), EditTask("both", (a, b), 1.0)] for a, b in pairs]
    start = torch.from_numpy(round_trips(backbone, images, batch)).flatten(1).double()
    made = {(one.row, one.edit_id): one.pixels for one in only_finite(edit_images(
        backbone, images, source_prompts, tasks, text, range(len(images)), batch))}  # fmt: skip

    def moved(edit: str) -> torch.Tensor:
        pixels = np.stack([made[row, edit] for row in range(len(images))])
        return torch.from_numpy(pixels).flatten(1).double() - start

    first, second, both = moved("0"), moved("1"), moved("both")
    apart = torch.pdist(start).mean()
    single = (first.norm(dim=1) + second.norm(dim=1)) / 2
    left = (both - first - second).norm(dim=1) / both.norm(dim=1).clamp(min=1e-12)
    return TextConditions(float(single.mean() / apart), 1 - float(left.mean()))
