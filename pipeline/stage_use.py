"""How well a run used its stages: what to look at when it is slower than it should be."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.placement import Plan
from pipeline.progress import Counts


@dataclass(frozen=True)
class StageUse:
    """rows: images, or edits for `edit`, `score` and `write`. None: it has no pool, or makes no full batches."""

    rows: int
    rows_per_second: float
    busy: float | None
    """Of the time that its actors were there, loading of models among it; near 1: this stage is what limits."""
    fill: float | None
    """Rows of model calls that were asked for, of all; the rest pads batches or ended in errors."""
    waiting: int | None
    """The most images that waited for it at once, those that its actors worked on aside."""


def stage_uses(counts: Counts, plan: Plan, seconds: float) -> Mapping[str, StageUse]:
    """Of each stage that did something in a stream that took `seconds`."""
    return {
        stage: StageUse(
            rows=rows,
            rows_per_second=round(rows / seconds, 3),
            busy=round(counts.seconds[stage] / (seconds * plan.pools[stage].size), 4) if stage in plan.pools else None,
            fill=round(counts.useful[stage] / run, 4) if (run := counts.evaluations.get(stage)) else None,
            waiting=counts.waiting.get(stage),
        )
        for stage, rows in counts.done.items()
        if rows
    }
