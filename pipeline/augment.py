"""One run of the scheduled augmentation: complete what an earlier one left open, then take what is new.

A selection is recorded with its listing before anything of it is made, and is then an edit job like others: ledger,
resume and verification need to know nothing new.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from pipeline.ask import Ask
from pipeline.augment_spec import Augment
from pipeline.backlog import Backlog, Row
from pipeline.balance import OTHER, Balance, Value, counted
from pipeline.estimate import Workload
from pipeline.flow import Summary, run_edit
from pipeline.forecast import run_of
from pipeline.gpu_hours import gpu_hours_of
from pipeline.identity import fingerprint
from pipeline.increments import Increment, increments_of, open_increments
from pipeline.ledger import Ledger, buckets_of, open_run
from pipeline.manifest import NothingListedError, open_manifest, prepare_manifest, write_manifest
from pipeline.operations import Operations, pixel_settings
from pipeline.placement import Cluster
from pipeline.recipe import Recipe, RecipeError
from pipeline.runs import Run
from pipeline.schema import LISTING
from pipeline.selection import Limit, Selection, select, select_all
from pipeline.storage import Store, open_store


@dataclass(frozen=True)
class Spent:
    """What the selections of one date come to: images, edits that cost work, and hours where they were counted."""

    images: int = 0
    edits: int = 0
    gpu_hours: float | None = None


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
    """Of the date, this run included."""
    balance: Mapping[str, Mapping[str, Mapping[str, float]]]
    """attribute -> value -> share wanted (`wanted`), and how often it was there `before` and `after`."""
    runs: tuple[Summary, ...]
    """Of each selection that was worked on."""
    problem: str | None
    """Why the run counts as failed; None: all that was taken is accounted for."""

    @property
    def waiting(self) -> int:
        """Edits that are left for a later run."""
        return self.new_edits - self.edits


@dataclass(frozen=True)
class Job:
    """What all steps of a run share. find_cluster: what there is to work on, asked only where hours are counted."""

    recipe: Recipe
    operations: Operations
    date: str
    find_cluster: Callable[[], Cluster]
    calibrate: int = 0
    new_run: bool = False
    retry_failed: bool = False
    address: str | None = None

    @property
    def settings(self) -> Mapping[str, object]:
        """What the fingerprint is taken of."""
        return pixel_settings(self.recipe, self.operations.facts(self.recipe))

    def work_on(self, increment: Increment, retry_failed: bool = False) -> Summary:
        """Make what an increment asks and is not there; says so beside its record when nothing is left."""
        ask = increment.ask
        try:
            listing = open_manifest(open_store(self.recipe.output), ask.manifest)
        except FileNotFoundError:
            raise RecipeError(
                f"{self.recipe.output}/{ask.manifest}/index.json is not there, and {increment.key} needs it; remove "
                "that record, so that what it asks is taken anew"
            ) from None
        summary = run_edit(
            self.recipe.model_copy(update={"edits": ask.edits}),
            self.operations,
            new_run=self.new_run,
            retry_failed=retry_failed,
            address=self.address,
            listing=listing,
            partition=increment.date,
        )
        if not summary.left:
            increment.close(Store(summary.output), asdict(summary))
        return summary


def augment(job: Job) -> Augmentation:
    """Complete what is open, and take of what is new what the date's budget lets through.

    Raises what `run_edit` raises; RecipeError too for a budget of GPU-hours that cannot be counted or in which no edit
    fits. The same call goes on from what was written.
    """
    name = fingerprint(job.settings)
    run, _ = run_of(job.recipe.output, name)
    opened = open_increments(run.store, name) if run else []
    done: list[Summary] = []
    for increment in opened:
        done.append(job.work_on(increment))
        if done[-1].left:
            return _told(job, name, Selection(), None, done, [its.key for its in opened[: len(done) - 1]])
    with tempfile.TemporaryDirectory(prefix="eim-augment-") as folder:
        selection, taken, before = _take(job, name, run, Store(folder))
    if taken is not None:
        done.append(job.work_on(taken, job.retry_failed))
    return _told(job, name, selection, taken, done, [its.key for its in opened], before)


def _take(
    job: Job, name: str, run: Run | None, spool: Store
) -> tuple[Selection, Increment | None, Mapping[Value, int]]:
    """Select of what is new and record it: what there was, what was taken, and how often each value was there."""
    recipe, output = job.recipe, open_store(job.recipe.output)
    ledger = Ledger(run.store if run else output, name)
    balance = Balance.of(recipe.augment.balance)
    before = counted(ledger, buckets_of(run), balance, recipe.augment.count_sources) if run and balance.shares else {}
    try:
        listing = prepare_manifest(recipe.input, spool, recipe.template_columns, output.root, LISTING)
    except NothingListedError:
        if run is None:  # a wrong path, more likely than a source that was emptied
            raise
        return Selection(), None, before
    backlog = Backlog(listing, ledger, recipe.edits, job.retry_failed)
    hours = gpu_hours_of(recipe, job.operations, listing, run, name, job.find_cluster, job.calibrate)
    spent = _spent(run, name, job.date)
    selection = _selection(recipe.augment, backlog, spent, hours, balance, before)
    if not selection.edits:
        _refuse_too_little(recipe.augment, selection, spent)
        return selection, None, before
    manifest = write_manifest(_rows(backlog, selection), output)
    if manifest is None:  # another run has made all of it meanwhile
        return Selection(), None, before
    store, _ = open_run(output, job.settings, job.new_run)
    counted_hours = hours(selection.work) if recipe.augment.budget and recipe.augment.budget.gpu_hours else None
    increment = Increment(
        job.date,
        Ask(name, manifest.prefix, recipe.edits),
        selection.images,
        selection.edits,
        selection.work,
        counted_hours,
    )
    increment.record(store)
    return selection, increment, before


def _selection(
    wanted: Augment,
    backlog: Backlog,
    spent: Spent,
    hours: Callable[[Workload], float],
    balance: Balance,
    before: Mapping[Value, int],
) -> Selection:
    if wanted.budget is None:
        return select_all(backlog)
    used = Workload(spent.images, 0, spent.edits)
    return select(backlog, Limit.of(wanted.budget, used, spent.gpu_hours or 0.0, hours), balance, before)


def _rows(backlog: Backlog, selection: Selection) -> Iterator[Row]:
    keys = selection.keys
    for bucket in backlog.buckets:
        if keys is None or bucket in keys:
            yield from backlog.rows(bucket, None if keys is None else keys[bucket])


def _refuse_too_little(wanted: Augment, selection: Selection, spent: Spent) -> None:
    if selection.new_edits and spent == Spent():
        assert wanted.budget is not None
        raise RecipeError(
            f"augment.budget: {wanted.budget.model_dump(exclude_none=True)} is less than a single edit takes; raise it"
        )


def _spent(run: Run | None, name: str, date: str) -> Spent:
    spent = Spent()
    for its in increments_of(run.store, name, date) if run else ():
        hours = spent.gpu_hours if its.gpu_hours is None else (spent.gpu_hours or 0.0) + its.gpu_hours
        spent = Spent(spent.images + its.work.images, spent.edits + its.work.edits, hours)
    return spent


def _told(
    job: Job,
    name: str,
    selection: Selection,
    taken: Increment | None,
    done: list[Summary],
    completed: list[str],
    before: Mapping[Value, int] | None = None,
) -> Augmentation:
    run, _ = run_of(job.recipe.output, name)
    balance, after = Balance.of(job.recipe.augment.balance), before
    if run and balance.shares and done:
        after = counted(Ledger(run.store, name), buckets_of(run), balance, job.recipe.augment.count_sources)
    return Augmentation(
        output=run.store.root if run else open_store(job.recipe.output).root,
        date=job.date,
        fingerprint=name,
        completed=tuple(completed),
        new_images=selection.new_images,
        new_edits=selection.new_edits,
        images=selection.images if taken else 0,
        edits=selection.edits if taken else 0,
        increment=taken.key if taken else None,
        spent=_spent(run, name, job.date),
        balance=_shown(balance, before or {}, after or {}),
        runs=tuple(done),
        problem=next((summary.problem for summary in done if summary.problem), None),
    )


def _shown(
    balance: Balance, before: Mapping[Value, int], after: Mapping[Value, int]
) -> dict[str, dict[str, dict[str, float]]]:
    shown: dict[str, dict[str, dict[str, float]]] = {}
    for value, share in balance.shares.items():
        if value != OTHER:
            its = {
                "wanted": share / balance.shares[OTHER],
                "before": before.get(value, 0),
                "after": after.get(value, 0),
            }
            shown.setdefault(value[0], {})[value[1]] = its
    return shown
