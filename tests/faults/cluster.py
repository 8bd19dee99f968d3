"""Ray nodes on this machine that scenarios may kill."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ray.cluster_utils import Cluster

from tests.processes import lives

_SETTINGS = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a driver or node whose head is dead ends after this
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "500",
}
_WORKERS, _WORKER_CPUS = 2, 2


@dataclass
class Nodes:
    """A head without CPUs and two worker nodes; what has died is replaced by `mend`."""

    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    @property
    def address(self) -> str:
        """Where drivers join."""
        return self.cluster.address

    @property
    def cpus(self) -> int:
        """Those of a cluster that is whole."""
        return _WORKERS * _WORKER_CPUS

    def head_pids(self) -> list[int]:
        """The GCS and the head's raylet."""
        return _pids(self.cluster.head_node, "gcs_server") + _pids(self.cluster.head_node, "raylet")

    def raylet_pids(self) -> list[int]:
        """Those of the worker nodes that live."""
        return [pid for node in self.cluster.worker_nodes for pid in _pids(node, "raylet") if lives(pid)]

    def mend(self) -> None:
        """Replace dead worker nodes; where the head is dead, all of it."""
        if len([pid for pid in self.head_pids() if lives(pid)]) < 2:
            self.stop()
            self._start()
        for node in list(self.cluster.worker_nodes):
            if not all(lives(pid) for pid in _pids(node, "raylet")):
                self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < _WORKERS:
            self.cluster.add_node(num_cpus=_WORKER_CPUS)

    def stop(self) -> None:
        """End every node."""
        self.cluster.shutdown()

    def _start(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(_WORKERS):
            self.cluster.add_node(num_cpus=_WORKER_CPUS)


def _pids(node: Any, kind: str) -> list[int]:
    return [info.process.pid for info in node.all_processes.get(kind, ())]


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster for as long as the block runs; its settings are in the environment, for drivers too."""
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    started = Nodes()
    try:
        yield started
    finally:
        started.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
