"""How many blocks of rows a stream holds at a time, and whether Ray's object store holds them. Owns numbers only: it
starts nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.ledger import Account
from pipeline.placement import Cluster, PlacementError, Plan, PoolPlan, plan_placement
from pipeline.recipe import Recipe

IN_FLIGHT = 2
"""Blocks that an actor has: one that it works on and one that waits, so that it never idles between them."""
_STORE_SHARE = 0.5
"""Of the object store, that Ray gives the blocks of a stream."""
_MOST_BLOCK_BYTES = 128 * 2**20
"""Ray cuts what a stage makes into blocks of about so much, but no row."""
_UNCUT_BYTES = _MOST_BLOCK_BYTES * 3 // 2
"""Up to so much it leaves a block whole."""
_CHANNELS = 3
_SLACK = 1e-6


def most_waiting(pools: Mapping[str, PoolPlan]) -> int:
    """Blocks between two stages at which the first gets no more: as many as the largest pool has in flight.

    What the first has in flight itself may still come on top.
    """
    return IN_FLIGHT * max(pool.size for pool in pools.values())


def edited_blocks(plan: Plan, cpus: float) -> int:
    """Blocks whose edits may be made and not yet stored, at most: what a death costs.

    What the editing actors have in flight, what waits behind them when the last of these is given out, and one in each
    write task that finds a CPU.
    """
    free = cpus - sum(pool.size * pool.num_cpus for pool in plan.pools.values())
    writing = int(free / plan.task_cpus + _SLACK)
    return IN_FLIGHT * plan.edit.size + most_waiting(plan.pools) - 1 + writing


@dataclass(frozen=True)
class BlockMemory:
    """What a stream holds at most: blocks of sources, and blocks of edits with their sources; bytes of one each.

    Images count as raw pixels. What a split placement carries besides, latents and directions, is not counted.
    """

    sources: int
    source_bytes: int
    edited: int
    edited_bytes: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.sources * self.source_bytes + self.edited * self.edited_bytes

    @property
    def store(self) -> float:
        """Bytes of an object store in which they have room."""
        return self.total / _STORE_SHARE

    def __str__(self) -> str:
        terms = f"{self.sources} blocks of sources x {_mb(self.source_bytes)}"
        return f"{terms} + {self.edited} of edits x {_mb(self.edited_bytes)} = {_mb(self.total)}"


def block_memory(plan: Plan, cluster: Cluster, pixels: int, edits_per_image: int) -> BlockMemory:
    """Of a stream of images of so many pixels, each with so many edits."""
    pools = plan.pools.values()
    sources = most_waiting(plan.pools) * len(pools) + IN_FLIGHT * sum(pool.size for pool in pools)
    image = _CHANNELS * pixels
    edited = image * (1 + edits_per_image)
    return BlockMemory(
        sources,
        _block_bytes(plan.block_rows, image),
        edited_blocks(plan, cluster.cpus),
        _block_bytes(plan.block_rows, edited),
    )


def stored_blocks(plan: Plan, rows: int, pixels: int, edits_per_image: int) -> int:
    """Blocks in which so many rows are written, at most: Ray cuts those of sources, and again those of edits."""
    image = _CHANNELS * pixels
    of_edits = max(1, _MOST_BLOCK_BYTES // (image * (1 + edits_per_image)))

    def cut(count: int) -> int:
        pieces = -(-count * image // _MOST_BLOCK_BYTES)
        return -(-count // of_edits) + pieces - 1 if count else 0

    whole, rest = divmod(rows, plan.block_rows)
    return whole * cut(plan.block_rows) + cut(rest)


def plan_run(recipe: Recipe, cluster: Cluster, account: Account, pixels: int) -> Plan:
    """What a run does with a cluster: pools for the images that are left (where none are, for all), and blocks that the
    object store holds. Raises PlacementError where either cannot fit."""
    edits = account.edits_per_image
    plan = plan_placement(recipe, cluster, account.work.images or account.images, edits)
    return fit_blocks(plan, recipe, cluster, pixels, edits)


def fit_blocks(plan: Plan, recipe: Recipe, cluster: Cluster, pixels: int, edits_per_image: int) -> Plan:
    """The plan with blocks of as many whole batches, up to its own, as Ray leaves uncut and the object store holds.

    A block that is cut runs as whole batches and a padded rest. Aspect buckets fill their batches from all of a block,
    and would lose more by smaller ones. Blocks of one batch may take all of the object store, where Ray keeps stages
    waiting; where they need more, PlacementError tells the arithmetic. A store whose size is not known holds all.
    """
    uncut = plan.block_rows if recipe.aspect_buckets else _UNCUT_BYTES // (_CHANNELS * pixels)
    for rows in range(plan.block_rows, 0, -recipe.batch):
        smaller = replace(plan, block_rows=rows, unit_rows=min(plan.unit_rows, rows))
        if rows > uncut and rows > recipe.batch:
            continue
        memory = block_memory(smaller, cluster, pixels, edits_per_image)
        if not cluster.object_store or memory.store <= cluster.object_store:
            return smaller
    if memory.total <= cluster.object_store:
        return smaller
    raise PlacementError(
        f"batch: with blocks of one batch of {recipe.batch} images a stream holds {memory}, more than the "
        f"{_mb(cluster.object_store)} of Ray's object store; lower batch, size or the number of edits, or start Ray "
        "with a larger --object-store-memory"
    )


def _block_bytes(rows: int, row: int) -> int:
    return max(row, min(rows * row, _MOST_BLOCK_BYTES))


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
