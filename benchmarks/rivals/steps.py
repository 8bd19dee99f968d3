"""The model calls that all share, and the arguments of their commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import clock
from eim_ops.backbones.base import Backbone
from eim_ops.captioning.base import Captioner
from eim_ops.edit import edit_images
from eim_ops.method import Method
from eim_ops.named_models import load_backbone, load_captioner
from eim_ops.task import EditTask

BATCH = 16
"""The recipe's default."""
REQUEST = "change to broad smile"


def image_paths(folder: Path) -> list[Path]:
    """Its images, by name."""
    return sorted(folder.glob("*.png"))


@dataclass(frozen=True)
class Prompts:
    """Captions of a few images: what they show, and what they are to show."""

    captioner: Captioner

    @classmethod
    def load(cls) -> "Prompts":
        """With mini-vlm."""
        captioner = load_captioner("mini-vlm")
        clock.note("loaded")
        return cls(captioner)

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[list[str], list[str]]:
        """uint8 (H, W, 3) -> (source prompts, target prompts)."""
        sources = self.captioner.describe([Image.fromarray(image) for image in images])
        return sources, self.captioner.rewrite(sources, [REQUEST] * len(sources))


@dataclass(frozen=True)
class Edits:
    """Each image at each strength, by the default method."""

    backbone: Backbone
    strengths: Sequence[float]

    @classmethod
    def load(cls, strengths: Sequence[float]) -> "Edits":
        """With mini-dit."""
        backbone = load_backbone("mini-dit")
        clock.note("loaded")
        return cls(backbone, strengths)

    def __call__(
        self, images: Sequence[np.ndarray], sources: Sequence[str], targets: Sequence[str]
    ) -> list[list[np.ndarray]]:
        """For each image uint8 (H, W, 3) at each strength."""
        tasks = [[EditTask(f"{strength:g}", (target,), strength) for strength in self.strengths] for target in targets]
        made: list[list[np.ndarray]] = [[] for _ in images]
        for edited in edit_images(self.backbone, images, sources, tasks, Method(), range(len(images)), BATCH):
            made[edited.row].append(edited.pixels)
        return made
