"""Train the judge: a small residual network that reads every attribute from a 64x64 face."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, RegNetConfig, RegNetForImageClassification

from eim_ops.edit import to_images
from eim_ops.faces.face import Face
from eim_ops.faces.judge import CATEGORICAL, CONTINUOUS, LABELS, Judge, split_outputs
from eim_ops.mini.face_set import HELD_OUT_SEED, FaceSet, face_set
from eim_ops.mini.history import TrainingRun, training_run
from eim_ops.mini.loop import Batch, Schedule, Schedules, train
from eim_ops.mini.shipped import export, parameter_count

SCHEDULES = Schedules(
    cpu=Schedule(steps=6000, batch=32, lr=4e-3, warmup=150, ema=0.99, checkpoint_every=100, weight_decay=0.02),
    gpu=Schedule(
        steps=8000, batch=128, lr=4e-3, warmup=300, ema=0.999, checkpoint_every=500, weight_decay=0.02, final_lr=0.01
    ),
)
DATA_SEED = 1
"""Other faces than the other models train on: the ruler shares neither weights nor data with what it measures."""

_NUMBER_WEIGHT = 40.0
_CALIBRATION_BATCHES = 40


def build_judge() -> RegNetForImageClassification:
    """The untrained judge. No pooling in its stem: brows that move by three pixels tell how open hidden eyes are."""
    config = RegNetConfig(
        embedding_size=32,
        hidden_sizes=[48, 96, 160],
        depths=[2, 2, 2],
        groups_width=160,
        layer_type="x",
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return RegNetForImageClassification(config)


def truths(faces: Sequence[Face]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ground truth: numbers float32 (N, continuous) and class indices int64 (N, categorical)."""
    numbers = torch.tensor([[getattr(face, a.name) for a in CONTINUOUS] for face in faces], dtype=torch.float32)
    classes = torch.tensor([[a.index(getattr(face, a.name)) for a in CATEGORICAL] for face in faces])
    return numbers, classes


def degrade(images: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Blur and noise of random strength on half of the images, as decoders leave them. Brightness stays."""

    def even() -> torch.Tensor:
        return torch.rand((len(images), 1, 1, 1), generator=noise, device=images.device)

    chosen = (even() < 0.5).float()
    blur = 0.7 * chosen * even()
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    grain = 0.06 * chosen * even() * torch.randn(images.shape, generator=noise, device=images.device)
    return images + blur * (soft - images) + grain


def train_judge(
    data: FaceSet, work: Path, schedule: Schedule, device: torch.device
) -> tuple[RegNetForImageClassification, float]:
    """Train and return (judge in evaluation mode, seconds)."""
    numbers, classes = (truth.to(device) for truth in truths(data.faces))
    torch.manual_seed(schedule.seed)
    model = build_judge().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    draw = partial(data.draw, batch=schedule.batch)

    def seen(pixels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        return degrade(to_images(pixels), noise).contiguous(memory_format=torch.channels_last)

    def loss(batch: Batch, noise: torch.Generator) -> torch.Tensor:
        pixels, rows = batch
        read, logits = split_outputs(model(seen(pixels, noise)).logits)
        value = _NUMBER_WEIGHT * F.smooth_l1_loss(read, numbers[rows], beta=0.1)
        for i, part in enumerate(logits):
            value = value + F.cross_entropy(part, classes[rows, i])
        return value

    trained = train("judge", model, draw, loss, schedule, work)
    model.load_state_dict(trained.ema.state_dict())
    # Batch statistics belong to the averaged weights, which have never seen a batch: measure them.
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for i in range(_CALIBRATION_BATCHES):
            pixels, _ = draw(np.random.default_rng((schedule.seed, schedule.steps + i)))
            model(seen(pixels.to(device), torch.Generator(device).manual_seed(i)))
    return model.cpu().eval(), trained.seconds


def measure_judge(judge: Judge, data: FaceSet) -> dict[str, float]:
    """Accuracy of each categorical attribute and R2 of each continuous one, by name."""
    readings = judge.read(np.ascontiguousarray(data.pixels))
    numbers, classes = (truth.numpy() for truth in truths(data.faces))
    scores: dict[str, float] = {}
    for i, a in enumerate(CONTINUOUS):
        error = np.square(readings.numbers[a.name] - numbers[:, i]).mean()
        scores[a.name] = float(1 - error / numbers[:, i].var())
    for i, a in enumerate(CATEGORICAL):
        scores[a.name] = float((readings.classes[a.name] == classes[:, i]).mean())
    return scores


def _card(model: PreTrainedModel, run: TrainingRun, scores: dict[str, float]) -> str:
    rows = "\n".join(f"| {a.name} | R2 | {scores[a.name]:.3f} |" for a in CONTINUOUS)
    rows += "\n" + "\n".join(f"| {a.name} | accuracy | {scores[a.name]:.3f} |" for a in CATEGORICAL)
    return f"""# judge

Reads every attribute of a 64x64 face: continuous ones as numbers on [0, 1], categorical ones as classes. The ruler of
the benchmark: it shares no weights and no training faces with the other models and is never in the loop of a method.

- Format: `transformers`, `AutoModelForImageClassification` (RegNet, {parameter_count(model):,} parameters), fp16
  safetensors. Input: RGB scaled to [-1, 1]. Outputs: `id2label` of the configuration.
- Data: procedural faces, independent attributes, seed {DATA_SEED}; half of them blurred and noised.
- Training, `eim mini train judge`: {run}

Measured on 2,048 held-out faces (seed {HELD_OUT_SEED:,}):

| attribute | measure | value |
| --- | --- | --- |
{rows}
"""


def main(work: Path, device: torch.device, steps: int | None = None) -> None:
    """Train, measure on held-out faces and export into the weights folder."""
    schedule, count = SCHEDULES.on(device, steps)
    model, seconds = train_judge(face_set(DATA_SEED, count, work), work, schedule, device)
    scores = measure_judge(Judge(model), face_set(HELD_OUT_SEED, 2048))
    run = training_run(schedule, count, seconds, device)
    path = export("judge", model, _card(model, run, scores))
    print(f"{path}: {scores}")
