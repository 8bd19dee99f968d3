"""What a run will cost, by arithmetic alone: model evaluations, time, GPU-hours, bytes and objects.

Owns numbers only: it reads nothing and loads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from eim_ops.cost import Costs
from pipeline.placement import Plan


@dataclass(frozen=True)
class Workload:
    """What the model has to do: images to encode, (image, target) pairs to identify, edits to decode; parts add up."""

    images: int = 0
    targets: int = 0
    edits: int = 0

    def __add__(self, other: "Workload") -> "Workload":
        return Workload(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def evaluations(self, costs: Costs) -> int:
        """What the rows' column `evaluations` will add up to."""
        return self.images * costs.encode + self.identification(costs) + self.edits * costs.decode

    def identification(self, costs: Costs) -> int:
        """Of them, those of directions."""
        return self.images * costs.source + self.targets * costs.identify

    def padded(self, batch: int) -> "Workload":
        """The same in full batches. What the model runs on where every image has as many edits and every call
        `batch` images; the least that it can run on otherwise."""
        return Workload(*(-(-getattr(self, field.name) // batch) * batch for field in fields(self)))


@dataclass(frozen=True)
class Spread:
    """A measured number: its middle and the tenth and ninetieth of a hundred; equal where there is one measurement."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of some measurements; raises ValueError for none."""
        if not len(values):
            raise ValueError("no measurements, so no spread")
        low, middle, high = np.quantile(np.asarray(values, float), [0.1, 0.5, 0.9])
        return cls(float(low), float(middle), float(high))

    def scaled(self, by: float) -> "Spread":
        """Each of the three times `by`."""
        return Spread(self.low * by, self.middle * by, self.high * by)


@dataclass(frozen=True)
class Rates:
    """How fast an actor of each pool works and how large its images are; `source` tells who says so."""

    source: str
    evaluation: Spread
    """Seconds of one evaluation, with its share of all else that editing does (text, autoencoder)."""
    caption: Spread
    """Seconds of captioning for one edit."""
    image_bytes: Spread | None
    """Of one edited image; None: not known."""


@dataclass(frozen=True)
class Time:
    """What a run takes on a plan's pools, without starting it and loading its models."""

    seconds: Spread
    """Of the pool that takes longest: the other works meanwhile."""
    caption_seconds: Spread
    edit_seconds: Spread
    gpu_hours: Spread
    """Of all GPUs that the pools hold, busy or not."""


def _longest(work: Workload, costs: Costs, plan: Plan) -> float:
    """Evaluations of one actor of the editing pool that has most to do; a fused one has all."""
    by_stage = {
        "encode": work.images * costs.encode,
        "identify": work.identification(costs),
        "edit": work.edits * costs.decode,
    }
    apart = {name: plan.pools[name].size for name in by_stage if name in plan.pools and name != "edit"}
    rest = sum(evaluations for name, evaluations in by_stage.items() if name not in apart)
    return max(rest / plan.edit.size, *(by_stage[name] / size for name, size in apart.items()), 0.0)


def time_of(work: Workload, costs: Costs, rates: Rates, plan: Plan, batch: int) -> Time:
    """The time of this work, padding included, its actors all busy to the end."""
    edit = rates.evaluation.scaled(_longest(work.padded(batch), costs, plan))
    caption = rates.caption.scaled(work.edits / plan.caption.size)
    gpus = sum(pool.size * pool.num_gpus for pool in plan.pools.values())
    whole = Spread(max(caption.low, edit.low), max(caption.middle, edit.middle), max(caption.high, edit.high))
    return Time(whole, caption, edit, whole.scaled(gpus / 3600))


@dataclass(frozen=True)
class Storage:
    """What a run adds to its output, before `eim compact`; `parts` and `captions` at most."""

    images: int
    parts: int
    captions: int
    image_bytes: Spread | None
    """Of all new images; None: not known."""
    raw_bytes: int | None
    """Of all new images as raw pixels, which PNG only rarely exceeds; None: they have their sources' sizes."""


def storage_of(
    work: Workload,
    rates: Rates | None,
    pixels: int | None,
    blocks: int,
    buckets: int,
    captioned: bool,
) -> Storage:
    """What this work stores, written in so many `blocks`: images of at most `pixels` pixels, `buckets` with work."""
    # Rows come bucket after bucket, so each write task touches few of them: one more for each border between two.
    parts = blocks + max(0, buckets - 1) if blocks else 0
    known = rates.image_bytes.scaled(work.edits) if rates is not None and rates.image_bytes is not None else None
    raw = None if pixels is None else 3 * pixels * work.edits
    return Storage(work.edits, parts, work.images if captioned else 0, known, raw)
