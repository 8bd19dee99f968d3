"""How much may lie between two stages: a few blocks, where Ray by itself counts bytes alone.

Ray lets a stage run ahead until half of its part of the object store is full, which small images never reach. What lies
behind the editing is not in storage yet: it goes with the driver and its nodes, and is made again. Rows of the manifest
are smaller still: all of them would be read in the first minutes, and what Ray knows of each block fill the driver.
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

_MOST_WAITING, _MOST_READ, _TASK_ROWS = "eim.blocks_waiting", "eim.rows_read", "eim.rows_of_a_read"


def bound_queues(context: DataContext, blocks: int, rows: int, task_rows: int) -> None:
    """Hold every stage of the context's streams that has `blocks` blocks waiting behind it, and what reads the
    manifest, some `task_rows` in a task, while `rows` that it read are not taken by the first stage."""
    context.set_config(_MOST_WAITING, blocks)
    context.set_config(_MOST_READ, rows)
    context.set_config(_TASK_ROWS, task_rows)
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, _BoundedQueues])


class _BoundedQueues(BackpressurePolicy):
    """Before and behind actor pools by blocks, above them by rows: blocks differ in size there until they are cut."""

    def can_add_input(self, op: "PhysicalOperator") -> bool:
        """Whether the stage may take another block."""
        pooled = isinstance(op, ActorPoolMapOperator)
        if not pooled and not _feeds_a_pool(op):
            return self._may_read(op)
        waiting = sum(self._topology[behind].total_enqueued_input_blocks() for behind in op.output_dependencies)
        coming = 0 if pooled else op.num_active_tasks()  # a pool has a bound of its own
        return waiting + coming < self._data_context.get_config(_MOST_WAITING)

    def _may_read(self, op: "PhysicalOperator") -> bool:
        first = op
        while first.output_dependencies and not _feeds_a_pool(first):
            first = first.output_dependencies[0]
        if not _feeds_a_pool(first):
            return True  # behind the pools: what is written
        coming = op.num_active_tasks() * self._data_context.get_config(_TASK_ROWS)
        read = op.metrics.rows_task_outputs_generated + coming
        return read - first.metrics.rows_inputs_of_submitted_tasks < self._data_context.get_config(_MOST_READ)


def _feeds_a_pool(op: "PhysicalOperator") -> bool:
    return any(isinstance(behind, ActorPoolMapOperator) for behind in op.output_dependencies)
