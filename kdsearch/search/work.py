"""What a worker does with an assignment: its seeds one after another, an epoch at a time. The same with Ray and without.

A worker touches the store, never the record: it gives events to the driver, which is the record's only writer.
"""

from __future__ import annotations

import functools
import importlib
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdsearch.errors import KDSearchError, StoreError, UsageError
from kdsearch.record.store import Store
from kdsearch.search.depot import Depot
from kdsearch.spec.recipe import Recipe

DEFAULT_SESSION = "kdsearch.training.session:Session"


class SessionLike(Protocol):
    """What the search needs of a training session; :class:`kdsearch.training.session.Session` is the real one."""

    key: str

    @property
    def finished(self) -> bool:
        """Whether every epoch was given out."""

    @property
    def metrics(self) -> dict[str, Any]:
        """``{"final": {...}, "warnings": [...], ...}`` of a finished session."""

    def step(self) -> dict[str, float]:
        """The next epoch; holds ``epoch`` (from 1) and the metrics of each epoch."""

    def close(self) -> None:
        """Stop here; what is recorded stays."""


@dataclass(frozen=True)
class Work:
    """One assignment as a worker sees it; small and plain, since it travels."""

    id: str
    recipes: tuple[tuple[int, str], ...]
    """(seed, recipe as JSON), in the order they run."""
    store: str | None
    """Folder of the store; None: the default one of the node that does it."""
    depot: Depot | None = None
    """What backs the store, where nodes have stores of their own or something is behind the driver's."""
    session: str = DEFAULT_SESSION
    device: str = "cpu"
    threads: int = 1
    here: Store | None = None
    """The store itself, for work in the driver's process."""

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class Event:
    """What happened in one step of a worker: an epoch of a seed, or its failure."""

    seed: int
    key: str | None = None
    epoch: int = 0
    row: dict[str, float] | None = None
    final: dict[str, Any] | None = None
    """Final metrics, with the seed's last epoch."""
    warnings: tuple[str, ...] = ()
    failure: str | None = None
    """Why the seed cannot go on, for people."""
    trace: str | None = None
    """The end of the traceback, where the failure is a defect rather than a known error."""
    storage: bool = False
    """Whether the failure is the store's (a full disk, say) and not the recipe's: the study stops, and the trial is run again."""


@functools.lru_cache(maxsize=8)
def session_factory(name: str) -> Callable[..., SessionLike]:
    """The class or function ``module:name`` that makes sessions. Raises UsageError."""
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., SessionLike] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name}: no such session factory ({error}); write package.module:function") from None
    return found


@functools.lru_cache(maxsize=4)
def _store(root: str | None, depot: Depot | None) -> Store:
    folder = Store.default().root if root is None else Path(root)
    return Store(folder) if depot is None else depot.store(folder)


def open_session(recipe: str, work: Work) -> SessionLike:
    """A session for a recipe in JSON; waits while another process works on the same one."""
    parsed = Recipe.model_validate_json(recipe)
    store = work.here if work.here is not None else _store(work.store, work.depot)
    return session_factory(work.session)(parsed, store, device=work.device, threads=work.threads)


class Worker:
    """Steps through one assignment. What goes wrong in training comes out as an event; only a dying process raises."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._left = list(work.recipes)
        self._seed, self._recipe = 0, ""
        self._session: SessionLike | None = None
        self._reopened = False

    def step(self) -> Event:
        """One epoch of the current seed. What the store has lost under it (weights damaged, a folder gone for a moment) is made again
        once."""
        try:
            return self._step()
        except StoreError as error:
            self.close()
            if self._reopened:
                return failure(self._seed, error)
            self._reopened = True
            self._left.insert(0, (self._seed, self._recipe))
            return self.step()
        except Exception as error:
            self.close()
            return failure(self._seed, error)

    def _step(self) -> Event:
        if self._session is None:
            self._seed, self._recipe = self._left.pop(0)
            self._session = open_session(self._recipe, self._work)
        session = self._session
        row = session.step()
        event = Event(self._seed, session.key, int(row["epoch"]), row)
        if session.finished:
            metrics = session.metrics
            event = Event(self._seed, session.key, event.epoch, row, dict(metrics["final"]), tuple(map(str, metrics.get("warnings", ()))))
            self.close()
        return event

    def close(self) -> None:
        """Leave the current seed; its checkpoints stay."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()


def failure(seed: int, error: Exception) -> Event:
    """The event of a training run that cannot go on."""
    if isinstance(error, KDSearchError):
        return Event(seed, failure=str(error), storage=isinstance(error, StoreError))
    trace = "".join(traceback.format_exception(error))[-2000:]
    return Event(seed, failure=f"{type(error).__name__}: {error}", trace=trace)


def recipe_json(recipe: Recipe) -> str:
    """A recipe as text: how it travels, and its identity where no key is at hand."""
    return json.dumps(recipe.model_dump(mode="json"), separators=(",", ":"), sort_keys=True)
