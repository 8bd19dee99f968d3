"""Ray itself: joining or starting it, and Ray Data set to bounded retries and silence."""

import logging
import os
import signal
import threading
import warnings

import ray
from ray.data import DataContext

from pipeline.placement import Cluster, Plan

RETRIES = 3
"""Of a task, and of a model's load; instead of Ray's endless ones."""
_SLACK = 1e-3


def retries(rows: int, max_attempts: int) -> int:
    """How often Ray may run a unit of `rows` again: until every row is done or set aside, even if each kills its
    process and so does each row of the unit that waits behind it in the same actor."""
    return RETRIES + 2 * rows * (max_attempts + 1)


def connect(address: str | None) -> None:
    """Join the cluster at `address` or RAY_ADDRESS, else start Ray here; nothing when already connected."""
    if ray.is_initialized():
        return
    before = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ notes appear between the progress lines
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place, which ends the driver with a stack trace


def cluster_resources() -> Cluster:
    """What the cluster that this process has joined offers."""
    resources, nodes = ray.cluster_resources(), [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        resources.get("CPU", 0.0),
        resources.get("GPU", 0.0),
        resources.get("object_store_memory", 0.0),
        node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        node_gpus=max((node.get("GPU", 0.0) for node in nodes), default=0.0),
    )


def taken(plan: Plan) -> str | None:
    """What of a plan's pools is not free now, as where another job holds it; None: all is. Ray waits without a word."""
    free, pools = ray.available_resources(), plan.pools.values()
    needs = {
        "CPU": sum(pool.size * pool.num_cpus for pool in pools),
        "GPU": sum(pool.size * pool.num_gpus for pool in pools),
    }
    there = {kind: free.get(kind, 0.0) for kind in needs}
    short = [f"{there[kind]:g} of {need:g} {kind}s" for kind, need in needs.items() if there[kind] < need - _SLACK]
    if not short:
        return None
    return f"{' and '.join(short)} that the pools take are free now: the others wait until whoever holds them ends"


def configure_data() -> DataContext:
    """The driver's context, with bounded retries, and our own progress instead of Ray's."""
    context = DataContext.get_current()
    context.max_consecutive_actor_init_deaths = RETRIES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # `run_edit.py` tells errors by their types
    # It also logs every error that it raises, with its trace: what is raised reaches the user once, from us.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray 2.60 has no named parameter for retries yet.
    warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated")
    return context
