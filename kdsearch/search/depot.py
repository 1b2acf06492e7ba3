"""The depot: a Ray actor on the driver's node that holds the driver's store, for nodes that have stores of their own.

Teachers, pre-trained students, finished trials, tables and data sets come and go through Ray's object store. The actor's state is on
disk: should its process die, Ray starts another one there.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import StoreError
from kdsearch.record.served import Served
from kdsearch.record.store import Store
from kdsearch.record.upstream import Upstream

if TYPE_CHECKING:
    from kdsearch.spec.recipe import Data

ANSWER_SECONDS = 600.0
"""Seconds to wait for the depot; longer than it waits itself for a store behind it (:mod:`kdsearch.record.remote`)."""


@dataclass(frozen=True)
class Depot:
    """Where the depot is; small and plain, since it travels."""

    name: str
    node: str
    root: str
    """Folder of the driver's store; empty where something is behind it that has to be asked even on the driver's node."""

    def store(self, root: Path) -> Store:
        """The store in ``root`` on this node, backed by the depot; the driver's own store needs no depot."""
        import ray

        if (str(root), ray.get_runtime_context().get_node_id()) == (self.root, self.node):
            return Store(root)
        from kdsearch.training.lent import borrow_from

        store = Store(root, upstream=_Asked(self.name))
        borrow_from(store)
        store.send_unsent()
        return store


class _Served:
    """The actor."""

    def __init__(self, root: str, limit: int, upstream: Upstream | None, wanted: Collection[Data]) -> None:
        from kdsearch.training.lender import Lender
        from kdsearch.training.lent import KIND

        self._served = Served(Store(root, blob_limit=limit, upstream=upstream))
        self._lender, self._lent = Lender(wanted), (f"{KIND}/", f"blobs/{KIND}/")

    def holds(self, name: str) -> bool:
        return self._served.holds(name)

    def fetch(self, name: str) -> bytes | None:
        return self._lender.answer(name) if name.startswith(self._lent) else self._served.fetch(name)

    def offer(self, name: str, content: bytes) -> None:
        self._served.offer(name, content)

    def drop(self, name: str) -> None:
        self._served.drop(name)


class _Asked:
    """The depot as an upstream, from another process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._actor: Any = None

    def holds(self, name: str) -> bool:
        return bool(self._ask("holds", name))

    def fetch(self, name: str) -> bytes | None:
        found: bytes | None = self._ask("fetch", name)
        return found

    def offer(self, name: str, content: bytes) -> None:
        self._ask("offer", name, content)

    def drop(self, name: str) -> None:
        self._ask("drop", name)

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            if self._actor is None:
                self._actor = ray.get_actor(self._name)
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise StoreError(str(error.cause)) from None
        except (ray.exceptions.RayError, ValueError) as error:  # ValueError: there is no such actor any more
            raise StoreError(
                f"the driver's store does not answer this node ({type(error).__name__}); look at the driver's machine"
            ) from None


def open_depot(store: Store, wanted: Collection[Data]) -> tuple[Depot, Any]:
    """Start the depot of the driver's ``store`` on this node; gives where it is, and the handle that it lives as long as."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node, name = ray.get_runtime_context().get_node_id(), f"kdsearch-depot-{uuid.uuid4().hex}"
    actor = (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=8)(_Served)
        .options(name=name, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False))
        .remote(str(store.root), store.blobs.limit, store.upstream, tuple(wanted))
    )
    return Depot(name, node, "" if store.upstream is not None else str(store.root)), actor
