"""How many blocks of rows a stream holds at a time. Owns numbers only: it starts nothing."""

from collections.abc import Mapping

from pipeline.placement import Plan, PoolPlan

IN_FLIGHT = 2
"""Blocks that an actor has: one that it works on and one that waits, so that it never idles between them."""
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
