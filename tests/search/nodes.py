"""A cluster of Ray nodes on one machine, each with a store of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdsearch.search import ray_cluster
from tests.search.conftest import REPOSITORY
from tests.search.tabulated import trained

LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 in the address of a cluster for the machine's address on the network."""

DEATH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A node that does not answer for two seconds is dead."""


class Nodes:
    """The driver's node, which trains nothing, and workers that come and go; each has a store in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.names = ["driver"]
        self.cluster = Cluster(initialize_head=True, head_node_args=self._as("driver", 0) | {"_system_config": DEATH})
        self.workers: dict[str, Any] = {}

    def _as(self, name: str, cpus: int) -> dict[str, Any]:
        environment = {"KDSEARCH_STORE": str(self.folder / name), "PYTHONPATH": str(REPOSITORY), "TABULATED_SECONDS": "0.1"}
        environment["HOME"] = str(self.folder / f"home-{name}")
        return {"num_cpus": cpus, "env_vars": environment, "include_dashboard": False, "node_ip_address": LOOPBACK}

    def join(self, name: str, cpus: int = 1, **more: Any) -> None:
        self.names.append(name)
        self.workers[name] = self.cluster.add_node(wait=True, **self._as(name, cpus), **more)

    def die(self, name: str) -> None:
        self.cluster.remove_node(self.workers.pop(name), allow_graceful=False)

    def worked(self) -> dict[str, list[tuple[str, int, int, str]]]:
        """What each node has trained."""
        return {name: trained(self.folder / name) for name in self.names}


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Nodes]:
    """The driver's node alone at first; Ray is joined and left."""
    ray = ray_cluster.ray
    made = Nodes(folder)
    try:
        ray.init(
            address=made.cluster.address, _node_ip_address=LOOPBACK, runtime_env={"env_vars": ray_cluster.ENVIRONMENT}, log_to_driver=False
        )
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()
