"""One run of the scheduled augmentation: complete what an earlier one left open, then take what is new.

A selection is recorded with its listing before anything of it is made, and is then an edit job like others: ledger,
resume and verification need to know nothing new.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from pipeline.ask_records import Ask
from pipeline.augment_spec import Budget
from pipeline.backlog import Backlog, Row
from pipeline.balance import OTHER, Balance, Value, counted
from pipeline.estimate import Workload
from pipeline.forecast import run_of
from pipeline.gpu_hours import gpu_hours_of
from pipeline.identity import fingerprint
from pipeline.increments import Increment, increments_of, open_increments
from pipeline.ledger import Ledger, buckets_of, check_settings, open_run
from pipeline.listing import NothingListedError, check_apart, prepare_manifest
from pipeline.manifest import open_manifest, write_manifest
from pipeline.operations import Operations, pixel_settings
from pipeline.placement import Cluster
from pipeline.recipe import Recipe, RecipeError
from pipeline.run_edit import Summary, run_edit
from pipeline.runs import Run
from pipeline.schema import LISTING
from pipeline.selection import Limit, Selection, select, select_all
from pipeline.storage import Store, open_store


@dataclass(frozen=True)
class Spent:
    """What the selections of one date come to: images and edits that cost work, and hours where they were counted."""

    images: int = 0
    edits: int = 0
    gpu_hours: float = 0.0

    @classmethod
    def of(cls, increments: Sequence[Increment]) -> "Spent":
        """What these come to."""
        works, hours = [one.work for one in increments], sum(one.gpu_hours or 0.0 for one in increments)
        return cls(sum(work.images for work in works), sum(work.edits for work in works), hours)


@dataclass(frozen=True)
class Augmentation:
    """What a run of the job did."""

    output: str
    date: str
    fingerprint: str
    completed: tuple[str, ...]
    """Records of earlier selections that this run completed."""
    new_images: int
    new_edits: int
    """In the source and not in the ledger, when this run selected."""
    images: int
    edits: int
    """Of these taken by this run."""
    increment: str | None
    """The record of what it took; None: it took nothing."""
    spent: Spent
    """Of the date's budget, this run included; hours of what was taken under another budget where they were priced."""
    balance: Mapping[str, Mapping[str, Mapping[str, float]]]
    """attribute -> value -> the share `wanted`, and how often it was there `before` and `after`."""
    runs: tuple[Summary, ...]
    """Of each selection that was worked on."""
    problem: str | None
    """Why the run counts as failed; None: all that was taken is accounted for."""


@dataclass(frozen=True)
class Job:
    """What a run is given. find_cluster: what there is to work on, asked only where hours are counted."""

    recipe: Recipe
    operations: Operations
    date: str
    find_cluster: Callable[[], Cluster]
    calibrate: int = 0
    new_run: bool = False
    retry_failed: bool = False
    address: str | None = None


@dataclass(frozen=True)
class _Place:
    """What storage holds of the job's settings; `run` None: nothing yet."""

    job: Job
    settings: Mapping[str, Any]
    run: Run | None

    @classmethod
    def of(cls, job: Job, settings: Mapping[str, Any]) -> "_Place":
        return cls(job, settings, run_of(job.recipe.output, fingerprint(settings))[0])

    @property
    def name(self) -> str:
        return fingerprint(self.settings)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.run.store if self.run else open_store(self.job.recipe.output), self.name)

    def increments(self) -> list[Increment]:
        """Those of the date."""
        return increments_of(self.run.store, self.name, self.job.date) if self.run else []

    def counts(self, balance: Balance) -> Mapping[Value, int]:
        """How often each value is there."""
        if self.run is None or not balance.shares:
            return {}
        return counted(self.ledger, buckets_of(self.run), balance, self.job.recipe.augment.count_sources)


@dataclass(frozen=True)
class _Taken:
    """What was selected and recorded; increment None: nothing. uncounted: hours of the date's earlier increments that
    their records do not tell."""

    selection: Selection = field(default_factory=Selection)
    increment: Increment | None = None
    uncounted: float = 0.0


def augment(job: Job) -> Augmentation:
    """Complete what is open, and take of what is new what the date's budget lets through.

    Raises what `run_edit` raises; RecipeError too for a budget of GPU-hours that cannot be counted, or one in which no
    edit fits. The same call goes on from what was written.
    """
    settings, output = pixel_settings(job.recipe, job.operations.facts(job.recipe)), open_store(job.recipe.output)
    check_apart(job.recipe.input, output)
    check_settings(output, settings, job.new_run)
    balance = Balance.of(job.recipe.augment.balance)
    runs: dict[str, Summary] = {}
    taken: _Taken | None = None
    while taken is None:
        place = _Place.of(job, settings)
        for increment in open_increments(place.run.store, place.name) if place.run else ():
            runs[increment.key] = _work_on(job, increment)
            if job.retry_failed and runs[increment.key].left and not runs[increment.key].new_failures:
                # What failed of it before is too much for anything more to be tried.
                runs[increment.key] = _work_on(job, increment, retry_failed=True)
            if runs[increment.key].left:
                break
        before = place.counts(balance)
        taken = _Taken() if any(summary.left for summary in runs.values()) else _take(place, balance, before)
    completed = tuple(key for key, summary in runs.items() if not summary.left)
    if taken.increment is not None:
        runs[taken.increment.key] = _work_on(job, taken.increment, job.retry_failed)
        place = _Place.of(job, settings)
    after = place.counts(balance) if taken.increment is not None else before
    spent = Spent.of(place.increments())
    return Augmentation(
        output=place.ledger.store.root,
        date=job.date,
        fingerprint=place.name,
        completed=completed,
        new_images=taken.selection.new_images,
        new_edits=taken.selection.new_edits,
        images=taken.selection.images,
        edits=taken.selection.edits,
        increment=None if taken.increment is None else taken.increment.key,
        spent=replace(spent, gpu_hours=spent.gpu_hours + taken.uncounted),
        balance=_shown(balance, before, after),
        runs=tuple(runs.values()),
        problem=next((summary.problem for summary in runs.values() if summary.problem), None),
    )


def _work_on(job: Job, increment: Increment, retry_failed: bool = False) -> Summary:
    """Make what an increment asks and is not there; says so beside its record when nothing is left."""
    ask, output = increment.ask, open_store(job.recipe.output)
    try:
        listing = open_manifest(output, ask.manifest)
    except FileNotFoundError:
        raise RecipeError(
            f"{output.root}/{ask.manifest}/index.json is not there, and {increment.key} needs it; remove that record, "
            "so that what it asks is taken anew"
        ) from None
    summary = run_edit(
        job.recipe.model_copy(update={"edits": ask.edits}),
        job.operations,
        new_run=job.new_run,
        retry_failed=retry_failed,
        address=job.address,
        listing=listing,
        partition=increment.date,
    )
    if not summary.left:
        increment.close(Store(summary.output), asdict(summary))
    return summary


def _take(place: _Place, balance: Balance, before: Mapping[Value, int]) -> _Taken | None:
    """List the source, select of what is new, and record it with its listing; None: another run has taken something of
    the date's budget meanwhile."""
    job, output = place.job, open_store(place.job.recipe.output)
    recipe, budget = job.recipe, job.recipe.augment.budget
    earlier = place.increments()
    with tempfile.TemporaryDirectory(prefix="eim-augment-") as folder:
        try:
            listing = prepare_manifest(recipe.input, Store(folder), recipe.template_columns, LISTING)
        except NothingListedError:
            if place.run is None:  # a wrong path, more likely than a source that was emptied
                raise
            return _Taken()
        backlog = Backlog(listing, place.ledger, recipe.edits, job.retry_failed)
        hours = gpu_hours_of(recipe, job.operations, listing, place.run, place.name, job.find_cluster, job.calibrate)
        selection, uncounted = _select(backlog, budget, earlier, hours, balance, before)
        if not selection.edits:
            return _Taken(selection, uncounted=uncounted)
        store, _ = open_run(output, place.settings, job.new_run)
        manifest = write_manifest(_rows(backlog, selection), output)
        if manifest is None:  # another job made all of it meanwhile
            return _Taken()
        ask = Ask(place.name, manifest.prefix, recipe.edits)
        counts_hours = budget is not None and budget.gpu_hours is not None and selection.work.edits > 0
        increment = Increment(
            job.date,
            ask,
            selection.images,
            selection.edits,
            selection.work,
            hours(selection.work) if counts_hours else None,
            attempt=1 + sum(one.ask.sha256 == ask.sha256 for one in earlier),
        )
        # Listing and selecting take minutes of a large source: whoever was quicker has the budget.
        known = {one.key for one in earlier}
        if budget is not None and {one.key for one in increments_of(store, place.name, job.date)} != known:
            return None
        increment.record(store)
        return _Taken(selection, increment, uncounted)


def _select(
    backlog: Backlog,
    budget: Budget | None,
    earlier: Sequence[Increment],
    hours: Callable[[Workload], float],
    balance: Balance,
    before: Mapping[Value, int],
) -> tuple[Selection, float]:
    """What fits into what the date's earlier increments leave of the budget; and the hours of those that were taken
    under a budget without hours, priced now where the budget has them."""
    if budget is None:
        return select_all(backlog), 0.0
    unpriced = [one.work for one in earlier if one.gpu_hours is None and one.work.edits]

    @cache
    def uncounted() -> float:
        return sum(map(hours, unpriced))

    spent = Spent.of(earlier)
    used = Workload(images=spent.images, edits=spent.edits)
    limit = Limit.of(budget, used, spent.gpu_hours, lambda work: uncounted() + hours(work))
    selection = select(backlog, limit, balance, before)
    if selection.new_edits and not selection.edits and spent == Spent():
        given = ", ".join(f"{name} {limit:g}" for name, limit in budget.model_dump(exclude_none=True).items())
        raise RecipeError(f"augment.budget: given {given}, less than a single edit takes; raise it")
    asked_for = budget.gpu_hours is not None and budget.gpu_hours > spent.gpu_hours and selection.new_edits
    return selection, uncounted() if asked_for else 0.0


def _rows(backlog: Backlog, selection: Selection) -> Iterator[Row]:
    """The rows of the listing that ask for what is selected alone."""
    keys = selection.keys
    for bucket in backlog.buckets:
        if keys is None or bucket in keys:
            yield from backlog.rows(bucket, None if keys is None else keys[bucket])


def _shown(
    balance: Balance, before: Mapping[Value, int], after: Mapping[Value, int]
) -> dict[str, dict[str, dict[str, float]]]:
    shown: dict[str, dict[str, dict[str, float]]] = {}
    for value, share in balance.shares.items():
        if value != OTHER:  # which has the share of a whole attribute
            its = {
                "wanted": share / balance.shares[OTHER],
                "before": before.get(value, 0),
                "after": after.get(value, 0),
            }
            shown.setdefault(value[0], {})[value[1]] = its
    return shown
