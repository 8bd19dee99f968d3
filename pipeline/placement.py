"""Recipe and cluster resources -> the size and share of each actor pool, such that tasks always find a CPU.

Ray reserves resources by number, and a stream whose actors hold every CPU stalls without a word: its load and write
tasks never start. So the tasks' share is set aside first, and the pools divide the rest. Owns numbers only: it starts
nothing and asks no cluster.
"""

import math
from dataclasses import dataclass

from eim_ops.cost import costs
from pipeline.captioner_spec import GIVEN_PROMPTS, HttpSpec, TemplateSpec, VllmSpec, questions_at_once
from pipeline.recipe import Pool, Recipe

_TASK_SHARE = 0.25
"""Of all CPUs, kept for tasks where there are many."""
_POOL_CPUS = 1.0
"""What an actor reserves where CPUs abound; on small machines a fraction."""
_CPU_ACTORS, _BATCHES_OF_CPU_ACTOR = 4, 2
"""Of editing pools without GPUs, at most, since each actor holds the model; and the batches that each is to have at
least. Threads of one actor wait for each other at every layer, and for whatever else the cores do; actors do not
(docs/scale.md)."""
_MIN_BLOCK_ROWS, _MAX_BLOCK_ROWS = 16, 64
_BLOCK_EDITS = 256
_BLOCKS = 8
"""Wanted at least, so that small runs stream as well."""
_MAX_BUCKETED_ROWS, _BLOCKS_AN_ACTOR = 128, 2
"""Of aspect buckets: an actor fills batches from a whole block, so larger blocks and fewer waste less."""
_LEAST_CPUS = 0.01
_SLACK = 1e-6


class PlacementError(Exception):
    """Pools that do not fit the cluster, with the arithmetic."""


@dataclass(frozen=True)
class Cluster:
    """What Ray says it has."""

    cpus: float
    gpus: float = 0.0
    object_store: float = 0.0
    """Bytes of all nodes' object stores; 0: not known."""
    node_cpus: float = 0.0
    node_gpus: float = 0.0
    """Of the largest node; without `node_cpus` the cluster is planned as one machine."""


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
    unit_rows: int
    """What an editing actor takes at a time: one batch, or of aspect buckets a block, from which it fills batches."""
    no_progress_seconds: int
    encode: PoolPlan | None = None
    identify: PoolPlan | None = None
    """Pools of a split placement; in a fused one the edit pool does their work."""

    @property
    def pools(self) -> dict[str, PoolPlan]:
        """The pools that there are, in the order of the flow."""
        its = {"caption": self.caption, "encode": self.encode, "identify": self.identify, "edit": self.edit}
        return {name: pool for name, pool in its.items() if pool is not None}


def plan_placement(recipe: Recipe, cluster: Cluster, images: int, edits_per_image: int) -> Plan:
    """Divide the cluster; raises PlacementError when the recipe's pools cannot fit."""
    gpus = 0.0 if recipe.device == "cpu" else cluster.gpus
    if recipe.device == "cuda" and gpus <= 0:
        raise PlacementError("device: given 'cuda', but the cluster has no GPU; choose auto or cpu")
    an_actors = _MAX_BUCKETED_ROWS if recipe.aspect_buckets else _BATCHES_OF_CPU_ACTOR * recipe.batch
    seats = int(gpus) if gpus > 0 else min(int(cluster.cpus), _CPU_ACTORS, images // an_actors)
    sizes = _sizes(recipe, gpus, seats, edits_per_image)
    shares = _gpu_shares(recipe, gpus, sizes)
    _check_engine(recipe, shares["caption"])
    _check_nodes(shares, cluster)
    pool_cpus, task_cpus = _cpu_shares(cluster.cpus, sizes)
    # On a CPU the editing pools are where the time goes: each may use every core, and captioning half of them.
    node = cluster.node_cpus or cluster.cpus
    cores, nodes = max(1, int(node)), max(1, math.ceil(cluster.cpus / node))
    threads = {
        name: max(1, (cores // 2 if name == "caption" else cores) // math.ceil(size / nodes))
        for name, size in sizes.items()
    }
    actors = sizes["edit"] if recipe.aspect_buckets else None
    block_rows = _block_rows(recipe.batch, images, edits_per_image, actors)
    return Plan(
        **{name: _pool(sizes[name], pool_cpus, shares[name], threads[name]) for name in sizes},
        task_cpus=task_cpus,
        block_rows=block_rows,
        unit_rows=block_rows if recipe.aspect_buckets else recipe.batch,
        # A minute for every edit of a block: slow is no stall.
        no_progress_seconds=max(1800, 60 * block_rows * edits_per_image),
    )


def caption_rows(plan: Plan, recipe: Recipe) -> int:
    """What a captioning actor takes at a time: a batch, or a block where it asks more questions than that at once."""
    more = questions_at_once(recipe.captioner, recipe.batch) > recipe.batch
    return max(plan.block_rows, recipe.batch) if more else recipe.batch


def _block_rows(batch: int, images: int, edits_per_image: int, bucketed_actors: int | None = None) -> int:
    """Whole batches, since a model call's rows come from one block: what is left of a block is padded with copies.

    bucketed_actors: those that edit by aspect buckets; None: all images are of one size.
    """
    most, blocks = _MAX_BLOCK_ROWS, _BLOCKS
    if bucketed_actors is not None:
        most, blocks = _MAX_BUCKETED_ROWS, _BLOCKS_AN_ACTOR * bucketed_actors
    wanted = min(_BLOCK_EDITS // max(1, edits_per_image), images // blocks)
    bounded = min(most, max(_MIN_BLOCK_ROWS, wanted))
    return batch * max(1, bounded // batch)


def _pool(size: int, num_cpus: float, num_gpus: float, threads: int) -> PoolPlan:
    return PoolPlan(size, num_cpus, num_gpus, threads, "cuda" if num_gpus > 0 else "cpu")


def _sizes(recipe: Recipe, gpus: float, seats: int, edits_per_image: int) -> dict[str, int]:
    """Actors of each pool: as the recipe says, else one for each seat, and of GPUs a quarter of them captioning; the
    editing pools of a split placement share theirs out by the work that they have."""
    pools: dict[str, Pool] = {name: getattr(recipe.pools, name) for name in recipe.pool_names}
    # Seats that an actor takes: with several GPUs as many as the recipe gives it of them.
    seats_each = {name: (gpus >= 2 and pool.num_gpus) or 1.0 for name, pool in pools.items()}
    given = {name: pool.size for name, pool in pools.items()}
    editing = [name for name in pools if name != "caption"]
    models: float = 0 if _needs_no_gpu(recipe) else int(gpus) // 4
    # No more than the other pools leave, unless they leave nothing and can make room by smaller shares.
    rest = gpus - sum((given[name] or 1) * seats_each[name] for name in editing)
    if rest >= seats_each["caption"] or any(pools[name].num_gpus is not None for name in editing):
        models = min(models, rest)
    caption = given["caption"] or max(1, int(models / seats_each["caption"] + _SLACK))
    taken = caption * seats_each["caption"] if gpus >= 2 and not _needs_no_gpu(recipe) else 0
    free = seats - taken - sum((given[name] or 0) * seats_each[name] for name in editing)
    work = _work(recipe, edits_per_image)
    open_pools = {name: work[name] for name in editing if given[name] is None}
    shared_out = _apportioned(free, open_pools, seats_each)
    return {"caption": caption, **{name: given[name] or 0 for name in editing}, **shared_out}


def _work(recipe: Recipe, edits_per_image: int) -> dict[str, float]:
    """Model evaluations of one image in each stage of a split placement."""
    its = costs(recipe.method)
    targets = len({pair for edit in recipe.edits for pair in zip(edit.attributes, edit.targets, strict=True)})
    return {
        "encode": its.encode,
        "identify": its.source + max(1, targets) * its.identify,
        "edit": edits_per_image * its.decode,
    }


def _apportioned(seats: float, work: dict[str, float], seats_each: dict[str, float]) -> dict[str, int]:
    """One actor each, and others where most work waits for each that is there (Sainte-Lague), as long as seats last."""
    sizes = dict.fromkeys(work, 1)
    left = seats - sum(seats_each[name] for name in work)
    while fitting := [name for name in work if seats_each[name] <= left + _SLACK]:
        busiest = max(fitting, key=lambda name: work[name] / (2 * sizes[name] + 1))
        sizes[busiest] += 1
        left -= seats_each[busiest]
    return sizes


def _needs_no_gpu(recipe: Recipe) -> bool:
    """Whether captions come from elsewhere, or need no model."""
    return recipe.captioner == GIVEN_PROMPTS or isinstance(recipe.captioner, HttpSpec | TemplateSpec)


def _gpu_shares(recipe: Recipe, gpus: float, sizes: dict[str, int]) -> dict[str, float]:
    pools: dict[str, Pool] = {name: getattr(recipe.pools, name) for name in sizes}
    if _needs_no_gpu(recipe):
        pools["caption"] = Pool(num_gpus=0)
    if gpus <= 0:
        asked = [pool.num_gpus for pool in pools.values() if pool.num_gpus]
        if asked:
            mend = "leave num_gpus out or set device: auto" if recipe.device == "cpu" else "leave num_gpus out"
            raise PlacementError(f"pools: num_gpus is given as {asked[0]:g}, but no GPU is to be used; {mend}")
        return dict.fromkeys(sizes, 0.0)
    actors = sum(size for name, size in sizes.items() if pools[name].num_gpus != 0)
    # Whole GPUs where there are enough, else equal shares that pack without a remainder.
    each = 1.0 if actors <= gpus else 1.0 / -(-actors // int(max(1, gpus)))
    shares = {name: each if pool.num_gpus is None else pool.num_gpus for name, pool in pools.items()}
    if not _packs([shares[name] for name, size in sizes.items() for _ in range(size)], int(gpus)):
        terms = " + ".join(f"{size} x {shares[name]:g} ({name})" for name, size in sizes.items())
        total = sum(size * shares[name] for name, size in sizes.items())
        raise PlacementError(f"pools: {terms} = {total:g} GPUs do not fit on {gpus:g}; lower a size or a num_gpus")
    return shares


def _check_engine(recipe: Recipe, gpus: float) -> None:
    """vLLM takes nine tenths of a GPU's memory for itself unless it is told otherwise."""
    spec = recipe.captioner
    if not isinstance(spec, VllmSpec):
        return
    if gpus <= 0:
        raise PlacementError("captioner: kind vllm needs a GPU for each caption actor; take kind model, or kind http")
    if gpus < 1 and "gpu_memory_utilization" not in spec.engine:
        raise PlacementError(
            f"captioner: a caption actor has {gpus:g} of a GPU, and vLLM would take all of it: give it whole ones "
            "(pools.caption.num_gpus: 1), or captioner.engine.gpu_memory_utilization"
        )
    if spec.gpus > 1 and gpus != spec.gpus:
        raise PlacementError(
            f"captioner.engine spreads the model over {spec.gpus} GPUs, and a caption actor has {gpus:g}: give "
            f"pools.caption.num_gpus: {spec.gpus}"
        )


def _check_nodes(shares: dict[str, float], cluster: Cluster) -> None:
    """An actor's GPUs are those of one node; Ray would wait for such a node without a word."""
    for name, share in shares.items():
        if cluster.node_cpus and share > cluster.node_gpus:
            raise PlacementError(
                f"pools.{name}.num_gpus: an actor has {share:g} GPUs, and the largest node {cluster.node_gpus:g}; "
                "lower it, or take larger nodes (`eim plan --k8s` tells which)"
            )


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


def _cpu_shares(cpus: float, sizes: dict[str, int]) -> tuple[float, float]:
    """(CPUs that each actor reserves, CPUs of a task): the tasks' part first, the rest to the actors."""
    actors = sum(sizes.values())
    # Ray Data's repartition takes a whole CPU for its tasks, and has no setting for less.
    if cpus < 2:
        raise PlacementError(
            f"the cluster has {cpus:g} CPUs; 2 are needed: 1 for tasks, and 1 for {actors} actors to share"
        )
    for_tasks = max(1.0, float(int(cpus * _TASK_SHARE)))
    each = min(_POOL_CPUS, (cpus - for_tasks) / actors)
    # Where half of the CPUs can hold all, they do: the actors of a lost node are started again on those that are left,
    # and a stream waits for them without end.
    if (in_half := (cpus / 2 - for_tasks) / actors) >= _LEAST_CPUS:
        each = min(each, in_half)
    each = int(each * 100) / 100  # Ray keeps four decimals; rounding up would take from the tasks
    if each < _LEAST_CPUS:
        terms = " + ".join(f"{size} ({name})" for name, size in sizes.items())
        mend = " or ".join(f"pools.{name}.size" for name in sizes)
        raise PlacementError(
            f"pools: {terms} = {actors} actors share {cpus:g} CPUs - {for_tasks:g} for tasks, less than 0.01 each; "
            f"lower {mend}"
        )
    return each, min(1.0, for_tasks)
