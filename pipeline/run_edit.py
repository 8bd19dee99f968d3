"""A run of edits: prepare, count, stream, count again."""

import gc
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import ObjectLostError, RayActorError, RayError, StreamingGeneratorReplayInconsistentError

from pipeline import storage_metrics
from pipeline.blocks import plan_run
from pipeline.cluster import cluster_resources, connect, taken
from pipeline.failure_limit import FailureLimit, TooManyFailures, failure_limit
from pipeline.flow import stream
from pipeline.ledger import Account
from pipeline.manifest import Manifest
from pipeline.model_loading import ModelError
from pipeline.operations import Operations
from pipeline.placement import Plan
from pipeline.prepared_run import EditRun, open_edit_run
from pipeline.progress import Counts, Progress, shown
from pipeline.recipe import Recipe
from pipeline.retrying import StorageError
from pipeline.stage_use import StageUse, stage_uses


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
            stream(run, plan, progress, limit)
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
