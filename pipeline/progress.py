"""Counts of a run in flight: stages report to one small actor, the driver shows rates and the time left."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from pipeline import storage_metrics
from pipeline.placement import Plan
from pipeline.run_metrics import RunMetrics

STAGES = ("load", "caption", "encode", "identify", "edit", "score", "write")
_TTY_SECONDS, _LOG_SECONDS = 0.5, 10.0
_PARTS_KNOWN = 50_000
"""Names of parts that the counter remembers, some 10 MB: Ray runs a write task again soon, if at all."""

Reasons = Counter[tuple[str, str]]
"""Failures by stage and error type."""


@dataclass
class Counts:
    """Rows done and seconds spent in each stage; `edit` and `score` count edits, `load` and `caption` images."""

    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    edits: int = 0
    failures: int = 0
    useful: dict[str, float] = field(default_factory=dict)
    """Rows of model calls that were asked for, by stage."""
    evaluations: dict[str, float] = field(default_factory=dict)
    """Rows of all model calls, padding among them."""
    taken: dict[str, int] = field(default_factory=dict)
    """Images that the actors of a pool have begun with."""
    waiting: dict[str, int] = field(default_factory=dict)
    """The most images that had left the stage before a pool and had not been taken by it."""
    batches: dict[str, int] = field(default_factory=dict)
    """The smallest batch of each stage whose memory ran out."""
    borne: storage_metrics.Borne = field(default_factory=Counter)
    """Calls of storage that were made again, or failed for good."""
    refusal: str | None = None
    """Why no model could be loaded; Ray's own errors do not carry what an actor raised to the driver."""


class _Counter:
    """The actor's body."""

    def __init__(self, run: str, asked: int, plan: Plan) -> None:
        self._counts, self._metrics = Counts(), RunMetrics(run, asked, plan)
        self._parts: dict[str, None] = {}
        self._loaded: set[str] = set()
        self._next = dict(pairwise(("load", *plan.pools)))
        self._before = {pool: stage for stage, pool in self._next.items()}

    def add(self, stage: str, count: int, seconds: float, borne: storage_metrics.Borne) -> None:
        self._counts.borne += borne
        self._counts.done[stage] += count
        self._counts.seconds[stage] += seconds
        self._metrics.add(stage, count, seconds)
        if pool := self._next.get(stage):
            self._queued(stage, pool)

    def taken(self, stage: str, images: int) -> None:
        self._counts.taken[stage] = self._counts.taken.get(stage, 0) + images
        if before := self._before.get(stage):
            self._queued(before, stage)

    def _queued(self, before: str, pool: str) -> None:
        # What is tried again after a death is taken twice.
        now = max(0, self._counts.done[before] - self._counts.taken.get(pool, 0))
        self._counts.waiting[pool] = max(now, self._counts.waiting.get(pool, 0))
        self._metrics.waiting(pool, now)

    def written(
        self, edits: Mapping[str, int], failures: Mapping[str, Reasons], seconds: float, borne: storage_metrics.Borne
    ) -> tuple[int, int]:
        new_edits = sum(edits[part] for part in self._new(edits))
        reasons = sum((failures[part] for part in self._new(failures)), Counter())
        self.add("write", new_edits + reasons.total(), seconds, borne)
        self._counts.edits += new_edits
        self._counts.failures += reasons.total()
        self._metrics.written(new_edits, reasons)
        return self._counts.edits, self._counts.failures

    def _new(self, parts: Mapping[str, Any]) -> list[str]:
        """The parts that were not told of before: a write task that is run again tells of the same ones."""
        new = [part for part in parts if part not in self._parts]
        self._parts.update(dict.fromkeys(new))
        while len(self._parts) > _PARTS_KNOWN:
            del self._parts[next(iter(self._parts))]
        return new

    def evaluated(self, stage: str, useful: float, evaluations: float) -> None:
        counts = self._counts
        counts.useful[stage] = counts.useful.get(stage, 0.0) + useful
        counts.evaluations[stage] = counts.evaluations.get(stage, 0.0) + evaluations
        self._metrics.evaluated(stage, useful, evaluations)

    def halved(self, stage: str, batch: int) -> None:
        self._counts.batches[stage] = min(batch, self._counts.batches.get(stage, batch))

    def loaded(self, stage: str) -> None:
        self._loaded.add(stage)

    def has_loaded(self, stage: str) -> bool:
        return stage in self._loaded

    def refused(self, why: str) -> None:
        self._counts.refusal = why

    def counts(self) -> Counts:
        return self._counts


@dataclass(frozen=True)
class Progress:
    """A handle that travels to the workers; with no actor it counts nothing."""

    actor: Any = None

    @classmethod
    def start(cls, run: str, asked: int, plan: Plan) -> "Progress":
        """Start the counting actor of a run that has `asked` edits to make; it asks for no CPU, and dies with the
        driver's node rather than with another."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return cls(ray.remote(num_cpus=0, scheduling_strategy=here)(_Counter).remote(run, asked, plan))

    def add(self, stage: str, count: int, seconds: float) -> None:
        """Report work done; does not wait."""
        if self.actor is not None:
            self.actor.add.remote(stage, count, seconds, storage_metrics.untold())

    def taken(self, stage: str, images: int) -> None:
        """Report that an actor of a pool begins with some images; does not wait."""
        if self.actor is not None:
            self.actor.taken.remote(stage, images)

    def evaluated(self, stage: str, useful: float, evaluations: float) -> None:
        """Report rows of model calls, those that were asked for and all; does not wait."""
        if self.actor is not None:
            self.actor.evaluated.remote(stage, useful, evaluations)

    def halved(self, stage: str, batch: int) -> None:
        """Report that memory ran out and the stage goes on with this batch; does not wait."""
        if self.actor is not None:
            self.actor.halved.remote(stage, batch)

    def loaded(self, stage: str) -> None:
        """Report that an actor of a stage has loaded its model; does not wait."""
        if self.actor is not None:
            self.actor.loaded.remote(stage)

    def has_loaded(self, stage: str) -> bool:
        """Whether any actor of a stage has loaded its model in this run; no when the counter is lost."""
        try:
            return self.actor is not None and ray.get(self.actor.has_loaded.remote(stage))
        except RayActorError:
            return False

    def refused(self, why: str) -> None:
        """Report that a model cannot be loaded; waits until it is heard."""
        if self.actor is not None:
            ray.get(self.actor.refused.remote(why))

    def written(self, edits: Mapping[str, int], failures: Mapping[str, Reasons], seconds: float) -> tuple[int, int]:
        """Report the rows of each part written, by its key; returns the edits and failures of the run so far (none when
        the counter is lost). Parts that were reported before count once."""
        if self.actor is None:
            return 0, 0
        try:
            return ray.get(self.actor.written.remote(edits, failures, seconds, storage_metrics.untold()))
        except RayActorError:  # its node is lost; the final account does not need it
            return 0, 0

    def counts(self) -> Counts:
        """The counts so far."""
        try:
            return Counts() if self.actor is None else ray.get(self.actor.counts.remote(), timeout=10)
        except (RayActorError, TimeoutError):
            return Counts()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def status_line(counts: Counts, totals: Mapping[str, int], elapsed: float) -> str:
    """One line: what each stage has done, the rate of edits, the time left."""
    parts = [f"{stage} {min(counts.done[stage], total)}/{total}" for stage, total in totals.items()]
    edited, all_edits = max(counts.done["edit"], counts.done["write"]), totals["write"]
    if edited and elapsed > 0:
        rate = edited / elapsed
        parts.append(f"{rate:.2f} edits/s, {_clock(max(all_edits - edited, 0) / rate)} left")
    if counts.failures:
        parts.append(f"{counts.failures} failed")
    parts += [f"out of memory: {stage} batch now {batch}" for stage, batch in sorted(counts.batches.items())]
    return " | ".join([_clock(elapsed), *parts])


@contextlib.contextmanager
def shown(progress: Progress, images: int, edits: int) -> Iterator[None]:
    """Show progress on standard error while the block runs: bars on a terminal, a line every ten seconds elsewhere."""
    totals = {"load": images, "caption": images, "edit": edits, "write": edits}
    console = Console(stderr=True)
    stop, started = threading.Event(), time.monotonic()

    def lines() -> None:
        while not stop.wait(_LOG_SECONDS):
            print(status_line(progress.counts(), totals, time.monotonic() - started), file=sys.stderr, flush=True)

    def bars() -> None:
        columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True) as view:
            tasks: dict[str, TaskID] = {
                stage: view.add_task(stage, total=total, note="") for stage, total in totals.items()
            }
            while not stop.wait(_TTY_SECONDS):
                counts = progress.counts()
                note = status_line(counts, {"write": edits}, time.monotonic() - started).partition(" | ")[2]
                for stage, task in tasks.items():
                    shown_note = note if stage == "edit" else ""
                    view.update(task, completed=min(counts.done[stage], totals[stage]), note=shown_note)

    thread = threading.Thread(target=bars if console.is_terminal else lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=15)
