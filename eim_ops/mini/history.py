"""What made a model's weights: training runs, as its card tells them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from eim_ops.mini.loop import Schedule

_FILE = "training.json"


@dataclass(frozen=True)
class TrainingRun:
    """faces: how many there were to draw batches from. on: the processor."""

    steps: int
    batch: int
    faces: int
    minutes: float
    on: str

    def __str__(self) -> str:
        """As a card tells it."""
        samples = f"{self.steps * self.batch:,} samples of {self.faces:,} faces"
        return f"{self.steps:,} steps of batch {self.batch}, {samples}, {self.minutes:g} minutes on {self.on}"


def training_run(
    schedule: Schedule, faces: int, seconds: float, device: torch.device, steps: int | None = None
) -> TrainingRun:
    """A run by `schedule`, of as many `steps` as were made of it, all by default."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "two CPU cores"
    return TrainingRun(steps or schedule.steps, schedule.batch, faces, round(seconds / 60, 1), name)


def read_history(folder: Path) -> list[TrainingRun]:
    """The runs that made a model, each on top of the one before; none where `folder` has no history."""
    path = folder / _FILE
    return [TrainingRun(**run) for run in json.loads(path.read_text())] if path.exists() else []


def write_history(folder: Path, runs: Sequence[TrainingRun]) -> None:
    """Replace the history of `folder`."""
    (folder / _FILE).write_text(json.dumps([asdict(run) for run in runs]) + "\n")
