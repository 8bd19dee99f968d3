"""How much may lie between two stages: a few blocks, where Ray by itself counts bytes alone.

Ray lets a stage run ahead until half of its part of the object store is full, which small images never reach. What lies
behind the editing is not in storage yet: it goes with the driver and its nodes, and is made again.
"""

from typing import TYPE_CHECKING

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import PhysicalOperator

_MOST_WAITING = "eim.blocks_waiting"


def bound_queues(context: DataContext, blocks: int) -> None:
    """Hold every stage of the context's streams that has `blocks` blocks waiting behind it."""
    context.set_config(_MOST_WAITING, blocks)
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, _BoundedQueues])


class _BoundedQueues(BackpressurePolicy):
    """Before and behind actor pools; what is read of the manifest is small, and is cut into blocks before that."""

    def can_add_input(self, op: "PhysicalOperator") -> bool:
        """Whether the stage may take another block."""
        pooled = isinstance(op, ActorPoolMapOperator)
        if not pooled and not any(isinstance(behind, ActorPoolMapOperator) for behind in op.output_dependencies):
            return True
        waiting = sum(self._topology[behind].total_enqueued_input_blocks() for behind in op.output_dependencies)
        coming = 0 if pooled else op.num_active_tasks()  # a pool has a bound of its own
        return waiting + coming < self._data_context.get_config(_MOST_WAITING)
