"""How many workers of which size a cluster of so many CPUs and GPUs is, as a patch for the overlays of `infra/k8s`.

The groups are those of the base: `caption` and `edit` are the pools, with the GPUs of one actor a worker, `cpu` is for
the tasks, and without GPUs for everything (docs/cluster.md, "Sizing").
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from pipeline.blocks import BlockMemory
from pipeline.placement import Cluster, PlacementError, Plan

_GPUS_FOR_A_CPU_WORKER = 4
_LEAST_WORKERS, _MOST_CPUS = 2, 16
"""Without GPUs: one worker's loss must not end the run, and larger machines are divided."""
_STORE_SHARE = 0.3
"""Of a worker's memory, that Ray's object store takes."""
_LEAST_CPUS = 2
"""Of a worker: a task reserves a whole one, and so may actors beside it."""
_PROCESS_BYTES = 2**30
"""Of a worker process with torch, without weights."""


@dataclass(frozen=True)
class Group:
    """One group of equal workers. `memory_gib` is the least, without weights that pass through it while they load."""

    name: str
    replicas: int
    most: int
    cpus: int
    memory_gib: int
    gpus: int


def worker_groups(plan: Plan, cluster: Cluster, blocks: BlockMemory) -> tuple[Group, ...]:
    """The groups of a cluster on which `plan` was made, in the order of the base's `workerGroupSpecs`; together they
    have room for these blocks.

    Raises PlacementError where its GPUs are not whole.
    """
    gpus = int(cluster.gpus)
    if gpus != cluster.gpus or not gpus:
        if cluster.gpus:
            raise PlacementError(f"--gpus: given {cluster.gpus:g}; workers have whole GPUs")
        tasks = max(_LEAST_WORKERS, math.ceil(cluster.cpus / _MOST_CPUS))
        captions = edits = 0
        caption_gpus = edit_gpus = 1
    else:
        tasks = math.ceil(gpus / _GPUS_FOR_A_CPU_WORKER)
        # An actor's GPUs are those of one worker. Shares of one GPU are one group: Ray puts either pool's actors there.
        caption_gpus = max(1, math.ceil(plan.caption.num_gpus))
        edit_gpus = max(1, *(math.ceil(pool.num_gpus) for name, pool in plan.pools.items() if name != "caption"))
        captions = plan.caption.size if plan.caption.num_gpus >= 1 else 0
        edits = (gpus - captions * caption_gpus) // edit_gpus
    workers = tasks + captions + edits
    cpus = int(cluster.cpus // workers)
    if cpus < _LEAST_CPUS:
        few = f"--cpus: {cluster.cpus:g} are fewer than {_LEAST_CPUS} for each of {workers} workers"
        raise PlacementError(f"{few}; give more")
    memory = _memory_gib(cpus, blocks.store / workers)
    return (
        Group("cpu", tasks, max(tasks, _GPUS_FOR_A_CPU_WORKER, gpus), cpus, memory, 0),
        Group("caption", captions, captions, cpus, memory, caption_gpus),
        Group("edit", edits, edits, cpus, memory, edit_gpus),
    )


def _memory_gib(cpus: int, store: float) -> int:
    """Memory whose object store has so many bytes, and what that leaves, a process for each CPU."""
    processes = cpus * _PROCESS_BYTES / (1 - _STORE_SHARE)
    return math.ceil(max(store / _STORE_SHARE, processes) / 2**30)


def kustomize_component(groups: tuple[Group, ...]) -> str:
    """A component that gives the RayCluster `eim` these groups.

    It goes first into the `components` of an overlay that builds on a size (`job`, `scheduled`): a size's own patches
    come after its components.
    """
    operations = [operation for index, group in enumerate(groups) for operation in _operations(index, group)]
    lines = "\n".join(f"      - {json.dumps(operation)}" for operation in operations)
    return (
        "# Workers by `eim plan --k8s`; memory is the least, without weights that pass through it while they load.\n"
        "# For a folder below components/, named first in the `components` of an overlay such as gpu-a10/job.\n"
        "apiVersion: kustomize.config.k8s.io/v1alpha1\n"
        "kind: Component\n"
        "patches:\n"
        "  - target: {kind: RayCluster, name: eim}\n"
        "    patch: |-\n"
        f"{lines}\n"
    )


def _operations(index: int, group: Group) -> list[dict[str, Any]]:
    place = f"/spec/workerGroupSpecs/{index}"
    counts = {"replicas": group.replicas, "minReplicas": group.replicas, "maxReplicas": group.most}
    replacements: dict[str, Any] = {f"{place}/{name}": count for name, count in counts.items()}
    if group.replicas:
        resources: dict[str, str | int] = {"cpu": str(group.cpus), "memory": f"{group.memory_gib}Gi"}
        resources |= {"nvidia.com/gpu": group.gpus} if group.gpus else {}
        replacements[f"{place}/template/spec/containers/0/resources"] = {"requests": resources, "limits": resources}
    return [{"op": "replace", "path": path, "value": value} for path, value in replacements.items()]
