"""The whole Dataset graph."""

import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from pipeline.actors import CaptionStage, EditStage
from pipeline.blocks import IN_FLIGHT, most_waiting
from pipeline.caption_cache import CaptionCache
from pipeline.captioner_spec import captioner_name
from pipeline.cluster import RETRIES, configure_data, retries
from pipeline.failure_limit import FailureLimit
from pipeline.identify_shared import SampleStage, sample_rows, store_averages, wanted_directions
from pipeline.identity import fingerprint
from pipeline.operations import caption_settings
from pipeline.placement import Plan, PoolPlan, caption_rows
from pipeline.prepared_run import EditRun
from pipeline.progress import Progress
from pipeline.queues import bound_queues
from pipeline.shared_directions import SharedDirections
from pipeline.sink import EditSink, RunFacts
from pipeline.split_stages import EncodeStage, IdentifyStage, ManipulateStage
from pipeline.stages import LoadRows, ReadPending, ScoreAndEncode
from pipeline.storage import open_store
from pipeline.work import table_of_work

GROUP_ROWS, _READS = 1024, 4
"""Rows of the manifest that a task reads, at least; and about how many tasks may have read ahead."""

_FUSED = {"caption": CaptionStage, "edit": EditStage}
_SPLIT = {"caption": CaptionStage, "encode": EncodeStage, "identify": IdentifyStage, "edit": ManipulateStage}


def stream(run: EditRun, plan: Plan, progress: Progress, limit: FailureLimit) -> None:
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
