"""One training loop for all mini models: AdamW, warm-up and cosine, EMA, progress, resume; on two cores or on a GPU."""

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

Batch = tuple[torch.Tensor, ...]
Draw = Callable[[np.random.Generator], Batch]
"""One step's batch, drawn on the CPU; beside a GPU in processes of its own, steps ahead."""
Loss = Callable[[Batch, torch.Generator], torch.Tensor]
"""The scalar loss of a batch; the batch and the generator of its noise are on the model's device."""

_TOLD_EVERY = 25


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. `samples` = steps * batch."""

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    final_lr: float = 0.05
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 250

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then a cosine from `lr` to `final_lr * lr`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        t = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * t)))


@dataclass(frozen=True)
class Schedules:
    """How a model is trained from nothing on two CPU cores, and on one GPU: that many procedural faces, that long."""

    cpu: Schedule
    gpu: Schedule
    cpu_faces: int = 40_000
    gpu_faces: int = 300_000

    def on(self, device: torch.device, steps: int | None = None) -> tuple[Schedule, int]:
        """(schedule, number of faces) for `device`; `steps` instead of the schedule's own, where given."""
        chosen, faces = (self.cpu, self.cpu_faces) if device.type == "cpu" else (self.gpu, self.gpu_faces)
        return replace(chosen, steps=steps or chosen.steps), faces


@dataclass(frozen=True)
class Trained:
    """The EMA weights, and the seconds that all runs over this checkpoint took together."""

    ema: torch.nn.Module
    seconds: float


def train(name: str, model: torch.nn.Module, draw: Draw, loss: Loss, schedule: Schedule, work: Path) -> Trained:
    """Train `model` in place, on the device where it is; resume from `work/<name>.pt` where it exists.

    Each step's batch and noise are functions of (seed, step), so a resumed run sees what an unbroken one sees.
    """
    work.mkdir(parents=True, exist_ok=True)
    path, device = work / f"{name}.pt", next(model.parameters()).device
    if device.type != "cpu":
        torch.backends.cudnn.benchmark = True  # batches are of one size
        torch.set_float32_matmul_precision("high")
    ema = deepcopy(model).eval().requires_grad_(False)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=schedule.lr, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    start, seconds, smooth = 0, 0.0, torch.full((), math.nan, device=device)
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds, smooth = state["step"], state["seconds"], torch.tensor(state["loss"], device=device)
    began = time.monotonic()

    def save(step: int) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
             "step": step, "seconds": seconds + time.monotonic() - began, "loss": smooth.item()}, partial,
        )  # fmt: skip
        os.replace(partial, path)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=schedule.steps, completed=start)
        model.train()
        for step, batch in enumerate(_batches(draw, schedule, start, device), start):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr_at(step)
            seed = int(np.random.default_rng((schedule.seed, step, 1)).integers(2**62))
            noise = torch.Generator(device).manual_seed(seed)
            value = loss(tuple(part.to(device, non_blocking=True) for part in batch), noise)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _average(ema, model, min(schedule.ema, (step + 1) / (step + 10)))
            # Not read before it is told: a GPU would be waited for in every step.
            smooth = torch.where(smooth.isnan(), value.detach(), smooth.lerp(value.detach(), 0.02))
            if (step + 1) % _TOLD_EVERY == 0 or step + 1 == schedule.steps:
                progress.update(task, completed=step + 1, description=f"{name} loss {smooth.item():.4f}")
            if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
                save(step + 1)
                if not progress.console.is_terminal:
                    told = f"{name} step {step + 1} loss {smooth.item():.4f} {time.monotonic() - began:.1f} s"
                    progress.console.print(told)
    return Trained(ema, seconds + time.monotonic() - began)


class _Steps(Dataset[Batch]):
    """The batch of each step, by its number."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __getitem__(self, step: int) -> Batch:
        return self.draw(np.random.default_rng((self.seed, step)))


def _batches(draw: Draw, schedule: Schedule, start: int, device: torch.device) -> DataLoader[Batch]:
    """Of the steps from `start` on, in their order."""
    aside = device.type != "cpu"
    return DataLoader(
        _Steps(draw, schedule.seed), batch_size=None, sampler=range(start, schedule.steps), pin_memory=aside,
        num_workers=max(1, (os.cpu_count() or 2) - 2) if aside else 0, prefetch_factor=8 if aside else None,
        multiprocessing_context="fork" if aside else None,
    )  # fmt: skip


@torch.no_grad()
def _average(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    averaged = [p.data for p in ema.parameters()]
    torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
