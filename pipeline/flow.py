"""The whole Dataset graph, and a run around it: prepare, count, stream, count again."""

import gc
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import ObjectLostError, RayActorError, RayError, StreamingGeneratorReplayInconsistentError

from pipeline import storage_metrics
from pipeline.actors import CaptionStage, EditStage
from pipeline.ask_records import Ask
from pipeline.attempts import Attempts
from pipeline.blocks import IN_FLIGHT, most_waiting, plan_run
from pipeline.caption_cache import CaptionCache
from pipeline.captioner_spec import captioner_name
from pipeline.cluster import RETRIES, cluster_resources, configure_data, connect, retries, taken
from pipeline.failure_limit import FailureLimit, TooManyFailures, failure_limit
from pipeline.fit import Fit
from pipeline.identify_shared import SampleStage, sample_rows, store_averages, wanted_directions
from pipeline.identity import fingerprint
from pipeline.ledger import Account, Ledger, check_settings, open_run
from pipeline.listing import check_apart, prepare_manifest
from pipeline.manifest import Manifest
from pipeline.model_loading import ModelError, held_to
from pipeline.operations import ModelFacts, Operations, caption_settings, pixel_settings
from pipeline.placement import Plan, PoolPlan, caption_rows
from pipeline.progress import Counts, Progress, shown
from pipeline.queues import bound_queues
from pipeline.recipe import Recipe
from pipeline.retrying import StorageError
from pipeline.shared_directions import SharedDirections
from pipeline.sink import EditSink, RunFacts
from pipeline.split_stages import EncodeStage, IdentifyStage, ManipulateStage
from pipeline.stage_use import StageUse, stage_uses
from pipeline.stages import LoadRows, ReadPending, ScoreAndEncode
from pipeline.storage import open_store
from pipeline.work import table_of_work

GROUP_ROWS, _READS = 1024, 4
"""Rows of the manifest that a task reads, at least; and about how many tasks may have read ahead."""

_FUSED = {"caption": CaptionStage, "edit": EditStage}
_SPLIT = {"caption": CaptionStage, "encode": EncodeStage, "identify": IdentifyStage, "edit": ManipulateStage}


@dataclass(frozen=True)
class Summary:
    """What a run did, and how what was asked stands now."""

    output: str
    fingerprint: str
    images: int
    asked: int
    edits: int
    failures: int
    left: int
    repeats: int
    """Raw rows that the view drops."""
    new_edits: int
    new_failures: int
    seconds: float
    seconds_by_stage: Mapping[str, float]
    """Summed over workers, so more than the wall time where they overlap."""
    stages: Mapping[str, StageUse]
    """How well each stage was used."""
    smaller_batches: Mapping[str, int]
    """The smallest batch of each stage whose device ran out of memory."""
    storage_retries: Mapping[str, int]
    """Calls of storage that failed and were made again, by operation and error, such as `put SlowDown`."""
    storage_errors: Mapping[str, int]
    """Calls of storage that failed for good, by the same."""
    problem: str | None
    """Why the run counts as failed; None: all is accounted for."""


@dataclass(frozen=True)
class EditRun:
    """A run whose listing, settings and ask storage has, before anything is made."""

    recipe: Recipe
    operations: Operations
    facts: ModelFacts
    manifest: Manifest
    ledger: Ledger
    retry_failed: bool
    attempts: Attempts
    partition: str | None

    @property
    def fit(self) -> Fit:
        """How its images are brought to the model's sizes."""
        return Fit(self.facts.sizes, self.recipe.output_size)


class Interrupted(KeyboardInterrupt):
    """A signal ended the stream; `counts` is what was done until then."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts


class ClusterError(Exception):
    """Ray, or a machine, ended a run that the same command completes."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}\n  what is written stays; run the same command again: it does what is left")


def run_edit(
    recipe: Recipe,
    operations: Operations,
    *,
    new_run: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    listing: Manifest | None = None,
    partition: str | None = None,
) -> Summary:
    """Make every edit that the recipe asks for and storage does not hold.

    listing: what to edit, prepared below the output; None: the input is listed now. partition: its rows' own.

    Raises RecipeError, FingerprintError or PlacementError before anything starts, StorageError or PermissionError when
    a store refuses, ModelError when a model cannot be loaded, ClusterError where Ray or a machine ends it, and
    Interrupted for KeyboardInterrupt in the stream. Other errors of the stream come through as they are. The same call
    goes on from what was written.
    """
    started = time.monotonic()
    storage_metrics.untold()  # of what this process did before
    run = open_edit_run(
        recipe, operations, new_run=new_run, retry_failed=retry_failed, listing=listing, partition=partition
    )
    manifest, attempts, name = run.manifest, run.attempts, run.ledger.fingerprint
    with _counting():
        before = run.ledger.account(manifest, recipe.edits, retry_failed)
    counts, problem = Counts(), None
    uses: Mapping[str, StageUse] = {}
    after = before
    limit = failure_limit(recipe.max_failure_fraction, before)
    if before.left and (told := limit.problem(0, 0)):
        problem = f"stopped: {told}; add --retry-failed, or raise the limit"
    elif before.left:
        connect(address)
        plan = plan_run(recipe, cluster_resources(), before, run.facts.most_pixels)
        progress, streamed = Progress.start(name[:12], before.left, plan), time.monotonic()
        left = before
        while problem is None and left.left:
            # A stream that ended by an error keeps its actors, and their CPUs, until its frames are collected; this one
            # would wait for them without a word.
            gc.collect()
            if waits := taken(plan):
                print(waits, file=sys.stderr, flush=True)
            ending = _streamed(run, plan, progress, limit, before)
            problem = f"stopped: {ending}" if isinstance(ending, TooManyFailures) else None
            count = run.ledger.settled_account if problem is None else run.ledger.account
            with _counting():
                after = count(manifest, recipe.edits)
            # Where a node dies Ray reads anew what that held, when part of it is done: its blocks are other ones then,
            # and rows may fall between them, or Ray refuses them. A stream that brings nothing more is the last.
            # Of failures that were to be tried again the account does not tell which ones still are.
            unknown = run.retry_failed and after.failures > 0
            if isinstance(ending, ClusterError) and (unknown or after.left >= left.left):
                raise ending
            if after.left >= left.left:
                break
            run, left = replace(run, retry_failed=False), after
        counts = progress.counts()
        uses = stage_uses(counts, plan, time.monotonic() - streamed)
    if not after.left:
        attempts.forget()
    return _summary(run, after, counts, uses, problem, time.monotonic() - started)


def _streamed(
    run: EditRun, plan: Plan, progress: Progress, limit: FailureLimit, before: Account
) -> TooManyFailures | ClusterError | None:
    """Stream what is left; returns why it was stopped, or what Ray lost that another stream may make. before: the run.
    Raises as `run_edit` does."""
    try:
        with shown(progress, before.work.images, before.left):
            _stream(run, plan, progress, limit)
    except KeyboardInterrupt:
        raise Interrupted(progress.counts()) from None
    except Exception as error:
        if refusal := progress.counts().refusal:
            raise ModelError(refusal) from None
        cause = _cause(error)
        if isinstance(cause, (StorageError, PermissionError)):
            raise type(cause)(_own_words(cause)) from None  # what the store says, without the layers of Ray
        if isinstance(cause, TooManyFailures):
            return TooManyFailures(_own_words(cause))
        if not isinstance(cause, _OF_RAY):
            raise
        told = ClusterError(_words_of_ray(cause))
        if isinstance(cause, _LOST):
            return told
        raise told from None
    return None


_LOST = (ObjectLostError, RayActorError, StreamingGeneratorReplayInconsistentError)
"""What a node takes with it where Ray cannot make it anew, or makes something else."""
_OF_RAY = (RayError, ExecutionTimeoutError)


@contextmanager
def _counting() -> Iterator[None]:
    """While the block counts, in several processes, what storage holds."""
    try:
        yield
    except BrokenProcessPool:
        raise ClusterError(_KILLED) from None


_KILLED = "a process that counted what storage holds was killed, as when the driver's memory runs out"


def open_edit_run(
    recipe: Recipe,
    operations: Operations,
    *,
    new_run: bool = False,
    retry_failed: bool = False,
    listing: Manifest | None = None,
    partition: str | None = None,
) -> EditRun:
    """List the input and record what is asked; arguments and errors as of `run_edit`."""
    facts = operations.facts(recipe)
    settings, output = pixel_settings(recipe, facts), open_store(recipe.output)
    check_apart(recipe.input, output)
    check_settings(output, settings, new_run)  # a listing may take an hour
    manifest = listing or prepare_manifest(recipe.input, output, recipe.template_columns)
    store, name = open_run(output, settings, new_run)
    Ask(name, manifest.prefix, recipe.edits).record(store)
    attempts = Attempts.start(store, recipe.max_attempts, anew=retry_failed)
    held, ledger = held_to(operations, facts), Ledger(store, name)
    return EditRun(recipe, held, facts, manifest, ledger, retry_failed, attempts, partition)


def _stream(run: EditRun, plan: Plan, progress: Progress, limit: FailureLimit) -> None:
    """The graph: read what is left, load, caption, edit, score, commit, until all is or too much fails."""
    context = configure_data()
    context.execution_no_progress_timeout_s = plan.no_progress_seconds
    waiting = most_waiting(plan.pools)
    bound_queues(context, waiting, _READS * GROUP_ROWS + waiting * plan.block_rows, GROUP_ROWS)
    recipe, attempts = run.recipe, run.attempts
    again = retries(max(plan.block_rows, recipe.batch), recipe.max_attempts)
    task = {"num_cpus": plan.task_cpus, "max_retries": again}
    models, name = run.facts, run.ledger.fingerprint
    captioner = captioner_name(recipe.captioner)
    revisions = (models.model_revision, captioner, models.captioner_revision)
    facts = RunFacts(name, recipe.model, *revisions, run.partition)
    stage_arguments = {"operations": run.operations, "recipe": recipe, "progress": progress, "attempts": attempts}
    caption_arguments = {**stage_arguments, "cache": _caption_cache(run)}
    groups = [{"buckets": list(group)} for group in run.manifest.groups(GROUP_ROWS)]
    whole_blocks = {"batch_size": None, "batch_format": "pyarrow", **task}
    read = ReadPending(run.manifest, run.ledger, recipe, run.retry_failed, plan.block_rows)
    sink = EditSink(run.ledger.store, facts, progress, limit, attempts)
    editing = {**stage_arguments, "shared": _share_directions(run, plan, progress)}
    arguments = {"caption": caption_arguments, "encode": editing, "identify": editing, "edit": editing}
    stages = _SPLIT if recipe.placement == "split" else _FUSED
    rows = (
        ray.data.from_items(groups, override_num_blocks=len(groups))
        .map_batches(read, batch_size=1, batch_format="pyarrow", **{**task, "max_retries": RETRIES})
        .repartition(target_num_rows_per_block=plan.block_rows, strict=True)
        .map_batches(LoadRows(run.fit, recipe.seed, progress, attempts), **whole_blocks)
    )
    for stage, pool in plan.pools.items():
        unit = caption_rows(plan, recipe) if stage == "caption" else plan.unit_rows
        rows = rows.map_batches(stages[stage], **_pool(pool, arguments[stage], unit, again))
    written = rows.map_batches(ScoreAndEncode(progress, attempts, recipe.output_size), **whole_blocks).map_batches(
        sink, **whole_blocks
    )
    for _ in written.iter_internal_ref_bundles():
        pass  # what is written is let go, and Ray forgets how it came about


def _share_directions(run: EditRun, plan: Plan, progress: Progress) -> SharedDirections | None:
    """The run's shared directions, of which those that storage lacks are identified over a sample; None: own ones."""
    recipe, attempts = run.recipe, run.attempts
    if recipe.direction == "own":
        return None
    wanted = wanted_directions(recipe.edits)
    known = SharedDirections.read(run.ledger.store, list(wanted))
    missing = {each: edit for each, edit in wanted.items() if each not in known.ids}
    if not missing:
        return known
    rows = sample_rows(run.manifest, recipe.direction_images, missing)
    again = retries(max(len(rows), recipe.batch), recipe.max_attempts)
    arguments = {"operations": run.operations, "recipe": recipe, "progress": progress, "attempts": attempts}
    load = LoadRows(run.fit, recipe.seed, progress, attempts)
    sample = (
        ray.data.from_arrow(table_of_work(rows))
        .map_batches(load, batch_size=None, batch_format="pyarrow", num_cpus=plan.task_cpus, max_retries=again)
        .map_batches(
            CaptionStage, **_pool(plan.caption, {**arguments, "cache": _caption_cache(run)}, recipe.batch, again)
        )
        .map_batches(SampleStage, **_pool(replace(plan.edit, size=1), arguments, max(len(rows), 1), again))
    )
    store_averages(sample.take_all(), missing, known, recipe, run.facts.model_revision)
    gc.collect()  # its actors hold CPUs until then
    return SharedDirections.read(run.ledger.store, list(wanted))


def _caption_cache(run: EditRun) -> CaptionCache:
    """Below the output, so that runs beside each other share it, or where the recipe says."""
    place = run.recipe.caption_cache
    store = open_store(run.recipe.output).below("captions") if place is None else open_store(place)
    settings = {**caption_settings(run.recipe, run.facts), **run.fit.settings()}
    return CaptionCache(store, fingerprint(settings)[:16])


def _pool(pool: PoolPlan, arguments: Mapping[str, Any], batch: int, again: int) -> dict[str, Any]:
    return {
        "fn_constructor_kwargs": {**arguments, "pool": pool},
        "batch_size": batch,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=IN_FLIGHT),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
        # Bounded by what kills it: rows by their attempts, a model's load by RETRIES.
        "max_restarts": -1,
        "max_task_retries": again,
    }


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, below the layers that Ray puts around it."""
    inner = getattr(error, "cause", None) or error.__cause__
    # Ray Data puts an empty SystemException below what is no error of ours.
    return error if inner is None or inner is error or isinstance(inner, SystemException) else _cause(inner)


def _words_of_ray(error: BaseException) -> str:
    """What an error of Ray says first; of an actor that was given up, why it had no model."""
    text = str(error).strip()
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return text.rpartition("ModelError: ")[2]
    first, _, _ = text.partition("\n")
    return f"Ray: {type(error).__name__}: {first}"


def _own_words(error: BaseException) -> str:
    """An error's text without what Ray Data writes below it."""
    return str(error).partition("\nFailed to apply UDF transform")[0]


def _summary(
    run: EditRun, after: Account, counts: Counts, uses: Mapping[str, StageUse], problem: str | None, seconds: float
) -> Summary:
    limit = run.recipe.max_failure_fraction
    borne = counts.borne + storage_metrics.untold()  # the workers' and the driver's
    if problem is None and after.left:
        problem = f"{after.left} of {after.asked} edits are not accounted for; run the same command again"
    elif problem is None and after.failures > limit * after.asked:
        problem = f"{after.failures} of {after.asked} edits failed, more than max_failure_fraction {limit:g} allows"
    return Summary(
        output=run.ledger.store.root,
        fingerprint=run.ledger.fingerprint,
        images=after.images,
        asked=after.asked,
        edits=after.edits,
        failures=after.failures,
        left=after.left,
        repeats=after.repeats,
        new_edits=counts.edits,
        new_failures=counts.failures,
        seconds=round(seconds, 3),
        seconds_by_stage={stage: round(spent, 3) for stage, spent in counts.seconds.items() if spent},
        stages=uses,
        smaller_batches=counts.batches,
        storage_retries=_borne(storage_metrics.RETRIES, borne),
        storage_errors=_borne(storage_metrics.ERRORS, borne),
        problem=problem,
    )


def _borne(counter: str, borne: storage_metrics.Borne) -> dict[str, int]:
    return {
        f"{operation} {error}": count for (name, operation, error), count in sorted(borne.items()) if name == counter
    }
