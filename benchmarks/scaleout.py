"""Whether two and four workers do two and four times as much: a stub that sleeps, on logical CPUs, and on two nodes."""

import os
from pathlib import Path
from unittest.mock import patch

from benchmarks.figure import Figure, Figures
from benchmarks.runs import Run, blots, edits, process_environment, run_pipeline
from benchmarks.sizes import Sizes

_CPUS = 8


def measure(folder: Path, sizes: Sizes) -> Figures:
    """Warm rate of N edit actors over N times that of one."""
    one, two, four = (_run(folder, sizes, size, f"--cpus={_CPUS}") for size in (1, 2, 4))
    on_one, on_two = _on_nodes(folder, sizes)
    each = f"{sizes.scaleout_images} images, one edit each of {sizes.scaleout_seconds * 1000:g} ms in a stub"
    how = f"{each}; one machine of {_CPUS} logical CPUs: seconds of one edit actor over"
    nodes = (
        f"{sizes.scaleout_images} images, the same stub; one actor on one Ray node, over 2 x two actors on two nodes"
    )
    parts = {"warm_s": {"1": one.warm, "2": two.warm, "4": four.warm}}
    return {
        "scaleout_2": Figure(one.warm / two.warm / 2, f"{how} 2 x those of two", 0.9, parts=parts),
        "scaleout_4": Figure(one.warm / four.warm / 4, f"{how} 4 x those of four", 0.9, parts=parts),
        "scaleout_2_nodes": Figure(
            on_one.warm / on_two.warm / 2, nodes, 0.9, parts={"warm_s": {"1": on_one.warm, "2": on_two.warm}}
        ),
    }


def _run(folder: Path, sizes: Sizes, actors: int, *options: str, environment: dict[str, str] | None = None) -> Run:
    images = blots(folder, sizes.scaleout_images)
    pools = {"caption": {"size": 1}, "edit": {"size": actors}}
    stub = f"--stub={sizes.scaleout_seconds}"
    return run_pipeline(
        folder, f"workers-{actors}", images, edits(1, [1.0]), stub, "--together", *options,
        environment=environment, pools=pools,
    )  # fmt: skip


def _on_nodes(folder: Path, sizes: Sizes) -> tuple[Run, Run]:
    """One edit actor on one node, and two on two; the head has no CPU, as in a real cluster. Raises RuntimeError where
    the actors are not on nodes of their own."""
    from ray.cluster_utils import Cluster

    runs = []
    for count in (1, 2):
        # Nodes give their workers the environment that they began with.
        with patch.dict(os.environ, process_environment(folder)):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            try:
                for _ in range(count):
                    cluster.add_node(num_cpus=2)
                runs.append(_run(folder, sizes, count, environment={"RAY_ADDRESS": cluster.address}))
                places = {event for event in runs[-1].events if event.startswith("editor-on-")}
                if len(places) != count:
                    raise RuntimeError(f"{count} edit actors were on {len(places)} nodes")
            finally:
                cluster.shutdown()
    return runs[0], runs[1]
