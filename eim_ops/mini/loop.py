"""One training loop for all mini models: AdamW, warm-up and cosine, EMA, progress, resume."""

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Loss = Callable[[np.random.Generator, torch.Generator], torch.Tensor]
"""Draws a batch from the two generators and returns the scalar loss."""


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
class Trained:
    """The EMA weights, and the seconds that all runs over this checkpoint took together."""

    ema: torch.nn.Module
    seconds: float


def train(name: str, model: torch.nn.Module, loss: Loss, schedule: Schedule, work: Path) -> Trained:
    """Train `model` in place by `loss`; resume from `work/<name>.pt` where it exists.

    Each step's batch is a function of (seed, step), so a resumed run sees what an unbroken one sees.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.pt"
    ema = deepcopy(model).eval().requires_grad_(False)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=schedule.lr, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    start, seconds, smooth = 0, 0.0, float("nan")
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds, smooth = state["step"], state["seconds"], state["loss"]
    began = time.monotonic()

    def save(step: int) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
             "step": step, "seconds": seconds + time.monotonic() - began, "loss": smooth}, partial,
        )  # fmt: skip
        os.replace(partial, path)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=schedule.steps, completed=start)
        model.train()
        for step in range(start, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr_at(step)
            rng = np.random.default_rng((schedule.seed, step))
            value = loss(rng, torch.Generator().manual_seed(int(rng.integers(2**62))))
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _average(ema, model, min(schedule.ema, (step + 1) / (step + 10)))
            smooth = value.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * value.item()
            progress.update(task, advance=1, description=f"{name} loss {smooth:.4f}")
            if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
                save(step + 1)
                if not progress.console.is_terminal:
                    progress.console.print(f"{name} step {step + 1} loss {smooth:.4f} {time.monotonic() - began:.0f} s")
    return Trained(ema, seconds + time.monotonic() - began)


@torch.no_grad()
def _average(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    averaged = [p.data for p in ema.parameters()]
    torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
