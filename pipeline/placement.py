"""Recipe and cluster resources -> the size and share of each actor pool, such that tasks always find a CPU.

Ray reserves resources by number, and a stream whose actors hold every CPU stalls without a word: its load and write
tasks never start. So the tasks' share is set aside first, and the pools divide the rest. Owns numbers only: it starts
nothing and asks no cluster.
"""

from dataclasses import dataclass

from pipeline.captioner_spec import GIVEN_PROMPTS, HttpSpec, TemplateSpec
from pipeline.recipe import Pool, Recipe

_TASK_SHARE = 0.25
"""Of all CPUs, kept for tasks where there are many."""
_POOL_CPUS = 1.0
"""What an actor reserves where CPUs abound; on small machines a fraction."""
_MIN_BLOCK_ROWS, _MAX_BLOCK_ROWS = 16, 64
_BLOCK_EDITS = 256
_BLOCKS = 8
"""Wanted at least, so that small runs stream as well."""
_SLACK = 1e-6


class PlacementError(Exception):
    """Pools that do not fit the cluster, with the arithmetic."""


@dataclass(frozen=True)
class Cluster:
    """What Ray says it has."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class PoolPlan:
    """One actor pool: `size` actors, each reserving its CPUs and GPUs and using `threads` torch threads."""

    size: int
    num_cpus: float
    num_gpus: float
    threads: int
    device: str


@dataclass(frozen=True)
class Plan:
    """Everything that the flow needs to know about resources."""

    caption: PoolPlan
    edit: PoolPlan
    task_cpus: float
    block_rows: int
    no_progress_seconds: int


def plan_placement(recipe: Recipe, cluster: Cluster, images: int, edits_per_image: int) -> Plan:
    """Divide the cluster; raises PlacementError when the recipe's pools cannot fit."""
    gpus = 0.0 if recipe.device == "cpu" else cluster.gpus
    if recipe.device == "cuda" and gpus <= 0:
        raise PlacementError("device: given 'cuda', but the cluster has no GPU; choose auto or cpu")
    caption_size, edit_size = _sizes(recipe, gpus)
    caption_gpus, edit_gpus = _gpu_shares(recipe, gpus, caption_size, edit_size)
    pool_cpus, task_cpus = _cpu_shares(cluster.cpus, caption_size, edit_size)
    # On a CPU the edit pool is where the time goes: it may use every core, and captioning half of them.
    cores = max(1, int(cluster.cpus))
    block_rows = _block_rows(recipe.batch, images, edits_per_image)
    return Plan(
        caption=_pool(caption_size, pool_cpus, caption_gpus, max(1, cores // 2 // caption_size)),
        edit=_pool(edit_size, pool_cpus, edit_gpus, max(1, cores // edit_size)),
        task_cpus=task_cpus,
        block_rows=block_rows,
        # A minute for every edit of a block: slow is no stall.
        no_progress_seconds=max(1800, 60 * block_rows * edits_per_image),
    )


def _block_rows(batch: int, images: int, edits_per_image: int) -> int:
    """Whole batches, since a model call's rows come from one block: what is left of a block is padded with copies."""
    wanted = min(_BLOCK_EDITS // max(1, edits_per_image), images // _BLOCKS)
    bounded = min(_MAX_BLOCK_ROWS, max(_MIN_BLOCK_ROWS, wanted))
    return batch * max(1, bounded // batch)


def _pool(size: int, num_cpus: float, num_gpus: float, threads: int) -> PoolPlan:
    return PoolPlan(size, num_cpus, num_gpus, threads, "cuda" if num_gpus > 0 else "cpu")


def _sizes(recipe: Recipe, gpus: float) -> tuple[int, int]:
    """Actors of each pool: as the recipe says, else one for each GPU with a quarter of them captioning."""
    models = 0 if _needs_no_gpu(recipe) else int(gpus) // 4
    caption = recipe.pools.caption.size or max(1, models)
    taken = caption if gpus >= 2 and not _needs_no_gpu(recipe) else 0
    return caption, recipe.pools.edit.size or max(1, int(gpus) - taken)


def _needs_no_gpu(recipe: Recipe) -> bool:
    """Whether captions come from elsewhere, or need no model."""
    return recipe.captioner == GIVEN_PROMPTS or isinstance(recipe.captioner, HttpSpec | TemplateSpec)


def _gpu_shares(recipe: Recipe, gpus: float, caption_size: int, edit_size: int) -> tuple[float, float]:
    caption_pool = Pool(num_gpus=0) if _needs_no_gpu(recipe) else recipe.pools.caption
    pools: tuple[tuple[Pool, int], ...] = ((caption_pool, caption_size), (recipe.pools.edit, edit_size))
    if gpus <= 0:
        asked = [pool.num_gpus for pool, _ in pools if pool.num_gpus]
        if asked:
            mend = "leave num_gpus out or set device: auto" if recipe.device == "cpu" else "leave num_gpus out"
            raise PlacementError(f"pools: num_gpus is given as {asked[0]:g}, but no GPU is to be used; {mend}")
        return 0.0, 0.0
    actors = sum(size for pool, size in pools if pool.num_gpus != 0)
    # Whole GPUs where there are enough, else equal shares that pack without a remainder.
    each = 1.0 if actors <= gpus else 1.0 / -(-actors // int(max(1, gpus)))
    caption, edit = (each if pool.num_gpus is None else pool.num_gpus for pool, _ in pools)
    if not _packs([caption] * caption_size + [edit] * edit_size, int(gpus)):
        raise PlacementError(
            f"pools: {caption_size} x {caption:g} (caption) + {edit_size} x {edit:g} (edit) = "
            f"{caption_size * caption + edit_size * edit:g} GPUs do not fit on {gpus:g}; lower a size or a num_gpus"
        )
    return caption, edit


def _packs(shares: list[float], gpus: int) -> bool:
    """Whether shares fit on whole GPUs, none of them split (first fit, largest first)."""
    free = [1.0] * gpus
    for share in sorted(shares, reverse=True):
        if share > 1:  # Ray wants whole numbers above 1, on GPUs of their own
            empty = [index for index, left in enumerate(free) if left > 1 - _SLACK][: int(share)]
            if share != int(share) or len(empty) < share:
                return False
            for index in empty:
                free[index] = 0.0
            continue
        fits = [index for index, left in enumerate(free) if left >= share - _SLACK]
        if not fits:
            return False
        free[fits[0]] -= share
    return True


def _cpu_shares(cpus: float, caption_size: int, edit_size: int) -> tuple[float, float]:
    """(CPUs that each actor reserves, CPUs of a task): the tasks' part first, the rest to the actors."""
    actors = caption_size + edit_size
    if cpus < 1:
        raise PlacementError(f"the cluster has {cpus:g} CPUs; at least 1 is needed for {actors} actors and the tasks")
    for_tasks = max(1.0, float(int(cpus * _TASK_SHARE))) if cpus >= 2 else 0.5
    each = min(_POOL_CPUS, (cpus - for_tasks) / actors)
    each = int(each * 100) / 100  # Ray keeps four decimals; rounding up would take from the tasks
    if each < 0.01:
        raise PlacementError(
            f"pools: {caption_size} (caption) + {edit_size} (edit) = {actors} actors share {cpus:g} CPUs - "
            f"{for_tasks:g} for tasks, less than 0.01 each; lower pools.caption.size or pools.edit.size"
        )
    return each, min(1.0, for_tasks)
