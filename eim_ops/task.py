"""What is asked of an editor, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Target(NamedTuple):
    """One direction: of the image at `row`, to `prompt`, with the image half of the shared direction of this id."""

    row: int
    prompt: str
    shared: str | None = None


@dataclass(frozen=True)
class EditTask:
    """One edit of one image: target prompts (several compose their attributes) and a strength of any sign.

    shared: the ids of the shared directions whose image halves are taken, one for each prompt; (): the image's own.
    """

    edit_id: str
    target_prompts: tuple[str, ...]
    strength: float
    shared: tuple[str, ...] = ()

    def targets(self, row: int) -> list[Target]:
        """What is to be identified for it, of the image at `row`."""
        shared = self.shared or (None,) * len(self.target_prompts)
        return [Target(row, *its) for its in zip(self.target_prompts, shared, strict=True)]


@dataclass(frozen=True)
class EditedImage:
    """The result of one task.

    row: index of the source image. pixels: uint8 (H, W, 3). direction_id: of a composition of shared ones, their ids
    joined by +. direction_method: hsds, dds (also where HSDS did no better), shared or none; direction_residual: what
    HSDS or its stand-in leaves unexplained on held-out noise, in units of no shift; direction_iterations: of the
    solver; of composed edits the worst part's. recon_psnr: dB, the inversion decoded unedited against the VAE round
    trip; None for a coupled trajectory, which has no such error. evaluations: the model evaluations of this edit with
    its share of its image's encoding and of its direction. finite: False where the latent or its decoded image held
    NaN or Inf (then the pixels mean nothing).
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


def wanted_targets(tasks: Sequence[Sequence[EditTask]]) -> list[Target]:
    """What the tasks of each image need, each target once."""
    its = ((row, task) for row, its_tasks in enumerate(tasks) for task in its_tasks)
    return list(dict.fromkeys(target for row, task in its for target in task.targets(row)))
