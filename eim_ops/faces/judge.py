"""The judge: reads every attribute from an image. The benchmark's ruler, never in the loop of a method."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

from eim_ops.edit import to_images
from eim_ops.faces.attributes import ATTRIBUTES, BY_NAME, Attribute
from eim_ops.mini.shipped import shipped_path

Reading = Mapping[str, float | int]
"""One image's attributes: class index of a categorical one, number on [0, 1] of a continuous one."""

CONTINUOUS: tuple[Attribute, ...] = tuple(a for a in ATTRIBUTES if a.kind == "continuous")
CATEGORICAL: tuple[Attribute, ...] = tuple(a for a in ATTRIBUTES if a.kind == "categorical")
LABELS: tuple[str, ...] = (*(a.name for a in CONTINUOUS), *(f"{a.name}={v}" for a in CATEGORICAL for v in a.values))
"""The judge's outputs in order: continuous attributes as numbers, then class logits."""

_BATCH = 64


@dataclass(frozen=True)
class Readings:
    """Readings of B images. `numbers[name]` is float32 (B,), `classes[name]` int64 (B,)."""

    numbers: Mapping[str, np.ndarray]
    classes: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.numbers.values())))

    def row(self, i: int) -> Reading:
        """The reading of image `i`, in canonical order."""
        return {
            a.name: float(self.numbers[a.name][i]) if a.kind == "continuous" else int(self.classes[a.name][i])
            for a in ATTRIBUTES
        }


@dataclass(frozen=True)
class Judge:
    """An image classifier whose outputs are `LABELS`."""

    model: PreTrainedModel

    @torch.no_grad()
    def read(self, pixels: np.ndarray) -> Readings:
        """Read uint8 RGB images (B, 64, 64, 3). Raises ValueError on another shape or type."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (64, 64, 3) or not len(pixels):
            raise ValueError(f"the judge reads uint8 (B, 64, 64, 3), got {pixels.dtype} {pixels.shape}; resize first")
        parts = [
            self.model(to_images(pixels[i : i + _BATCH]).to(self.model.device)).logits.float().cpu()
            for i in range(0, len(pixels), _BATCH)
        ]
        numbers, logits = split_outputs(torch.cat(parts))
        return Readings(
            {a.name: numbers[:, i].clamp(0, 1).numpy() for i, a in enumerate(CONTINUOUS)},
            {a.name: part.argmax(1).numpy() for a, part in zip(CATEGORICAL, logits, strict=True)},
        )


def split_outputs(outputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Split (B, len(LABELS)) into numbers (B, continuous) and, per categorical attribute, logits (B, classes)."""
    sizes = [len(CONTINUOUS), *(len(a.values) for a in CATEGORICAL)]
    numbers, *logits = outputs.split(sizes, dim=1)
    return numbers, tuple(logits)


def load_judge(path: Path | None = None, device: str = "cpu") -> Judge:
    """Load the judge, the shipped one by default. Raises ValueError where a model has other outputs."""
    path = path or shipped_path("judge")
    model = AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32).to(device).eval()
    labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    if labels != LABELS:
        raise ValueError(f"{path} is no judge of these attributes: its outputs are {labels}; train the judge again")
    return Judge(model)


def reached(reading: Reading, attribute: str, index: int) -> bool:
    """Whether an image shows value `index` of `attribute`.

    The class is equal, or the number lies within half a caption grade of the grade's middle, that is, in
    the grade. Ours.
    """
    spec = BY_NAME[attribute]
    if spec.kind == "categorical":
        return reading[attribute] == index
    return abs(reading[attribute] - spec.grade_center(index)) <= spec.grade_width / 2


def kept(before: Reading, after: Reading, attribute: str) -> bool:
    """Whether `attribute` stayed: the same class, or a change of at most half a caption grade. Ours."""
    spec = BY_NAME[attribute]
    if spec.kind == "categorical":
        return before[attribute] == after[attribute]
    return abs(before[attribute] - after[attribute]) <= spec.grade_width / 2
