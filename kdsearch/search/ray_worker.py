"""What runs in a worker's process, and how it learns who is in its crew. Imports little, since every worker does when it starts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.experimental import internal_kv

from kdsearch.search.depot import Depot
from kdsearch.search.work import Work, Workers, session_factory

EVENTS, VERSION = "events", "version"
_LOOK_SECONDS = 0.05
"""Between two looks of an actor that has nobody to train yet."""


class Desk:
    """Where a crew lies that its driver changes and its worker reads; in Ray's own table, which every process of a cluster reaches."""

    SPACE = b"kdsearch"

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def write(self, version: int, works: list[Work]) -> None:
        """The crew has changed."""
        text = json.dumps([version, [asdict(work) for work in works]])
        internal_kv._internal_kv_put(self._name, text, overwrite=True, namespace=self.SPACE)

    def read(self) -> tuple[int, list[Work]] | None:
        """The crew; None where it has not changed since it began."""
        found = internal_kv._internal_kv_get(self._name, namespace=self.SPACE)
        if found is None:
            return None
        version, works = json.loads(found)
        return version, [_work(**fields) for fields in works]

    @classmethod
    def clear(cls, prefix: str) -> None:
        """Forget all crews whose names begin so."""
        internal_kv._internal_kv_del(prefix.encode(), del_by_prefix=True, namespace=cls.SPACE)


def _work(recipes: list[tuple[int, str]], depot: dict[str, str] | None, **fields: Any) -> Work:
    texts = tuple((seed, text) for seed, text in recipes)
    return Work(recipes=texts, depot=None if depot is None else Depot(**depot), **fields)


class Trainable(tune.Trainable):
    """A worker's actor: one step is one epoch of each member of a crew."""

    def setup(self, config: dict[str, Any]) -> None:
        session_factory(config["session"])  # loads torch, while prerequisites may still be waited for
        self._desk, self._version = Desk(config["desk"]), 0
        self._workers = Workers()
        self._workers.set(config["works"])

    def step(self) -> dict[str, Any]:
        found = self._desk.read()
        if found is not None and found[0] != self._version:
            self._version, works = found
            self._workers.set(works)
        events = self._workers.step()
        if not events:
            time.sleep(_LOOK_SECONDS)
        return {EVENTS: events, VERSION: self._version}

    def cleanup(self) -> None:
        self._workers.close()
