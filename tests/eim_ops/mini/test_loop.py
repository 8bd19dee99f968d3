from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eim_ops.mini.loop import Batch, Schedule, Schedules, train

SCHEDULE = Schedule(steps=30, batch=4, lr=0.05, warmup=3, checkpoint_every=10)


class StoppedError(Exception):
    pass


def draw(rng: np.random.Generator) -> Batch:
    return (torch.from_numpy(rng.normal(size=(SCHEDULE.batch, 3)).astype(np.float32)),)


def fit(work: Path, steps: int = 30, stop_before: int | None = None) -> tuple[torch.nn.Linear, list[float]]:
    """A line fitted to noisy sums, and the losses of this run's steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    losses: list[float] = []

    def loss(batch: Batch, noise: torch.Generator) -> Tensor:
        if len(losses) == stop_before:
            raise StoppedError
        wanted = batch[0].sum(1, keepdim=True) + 0.1 * torch.randn((SCHEDULE.batch, 1), generator=noise)
        value = (model(batch[0]) - wanted).square().mean()
        losses.append(value.item())
        return value

    train("line", model, draw, loss, replace(SCHEDULE, steps=steps), work)
    return model, losses


def test_training_learns(tmp_path: Path) -> None:
    model, losses = fit(tmp_path, steps=300)
    assert np.mean(losses[-20:]) < 0.1 * np.mean(losses[:5])
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.2)


def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path: Path) -> None:
    whole, losses = fit(tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(tmp_path / "broken", stop_before=25)
    resumed, after = fit(tmp_path / "broken")
    assert after == losses[20:]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_gpu_has_a_schedule_of_its_own_and_more_faces() -> None:
    both = Schedules(cpu=SCHEDULE, gpu=Schedule(steps=7, batch=512, lr=0.1))
    assert both.on(torch.device("cpu")) == (SCHEDULE, both.cpu_faces)
    assert both.on(torch.device("cuda"), steps=9) == (Schedule(steps=9, batch=512, lr=0.1), both.gpu_faces)
    assert both.gpu_faces > both.cpu_faces
