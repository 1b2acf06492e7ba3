"""What a worker does with an assignment: its seeds one after another, an epoch at a time. The same with Ray and without.

A worker touches the store, never the record: it gives events to the driver, which is the record's only writer.
"""

from __future__ import annotations

import functools
import importlib
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from kdsearch.errors import KDSearchError, StoreError, UsageError
from kdsearch.record.store import Leased, Store
from kdsearch.search.depot import Depot
from kdsearch.spec.recipe import Recipe

DEFAULT_SESSION = "kdsearch.training.session:Session"


class SessionLike(Protocol):
    """What the search needs of a training session; :class:`kdsearch.training.session.Session` is the real one.

    Sessions that train faster together than one after another have two things more: ``stack``, how many of a kind are best at once,
    and the static method ``step_together(sessions)``, which gives for each the row that ``step()`` returns or the error that it raises.
    """

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
    stack: int = 1
    """Assignments of this kind that a process trains best at once."""
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


def open_session(recipe: str, work: Work, wait: bool = True) -> SessionLike:
    """A session for a recipe in JSON. Somebody else may be working on the same one: waits, or raises ``Leased``."""
    parsed = Recipe.model_validate_json(recipe)
    store = work.here if work.here is not None else _store(work.store, work.depot)
    return session_factory(work.session)(parsed, store, device=work.device, threads=work.threads, **({} if wait else {"wait": False}))


class Worker:
    """Steps through one assignment. What goes wrong in training comes out as an event; only a dying process raises."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._left = list(work.recipes)
        self._seed, self._recipe = 0, ""
        self._session: SessionLike | None = None
        self._reopened = False

    def step(self) -> Event:
        """One epoch of the current seed."""
        [event] = step_together([self])
        assert event is not None
        return event

    @property
    def ended(self) -> bool:
        """Whether all seeds are done."""
        return self._session is None and not self._left

    def open(self, wait: bool) -> SessionLike | None:
        """The session of the current seed; None, unless ``wait``, while somebody else works on the same recipe."""
        if self._session is None:
            self._seed, self._recipe = self._left.pop(0)
            try:
                self._session = open_session(self._recipe, self._work, wait)
            except Leased:
                self._left.insert(0, (self._seed, self._recipe))
        return self._session

    def take(self, found: dict[str, float] | Exception) -> Event | None:
        """What a step of the session gave. None: what the store has lost under it (weights damaged, a folder gone for a moment) is to be
        made again, which is tried once."""
        if isinstance(found, Exception):
            self.close()
            if self._reopened or not isinstance(found, StoreError):
                return failure(self._seed, found)
            self._reopened = True
            self._left.insert(0, (self._seed, self._recipe))
            return None
        session = self._session
        assert session is not None
        event = Event(self._seed, session.key, int(found["epoch"]), found, stack=getattr(session, "stack", 1))
        if session.finished:
            metrics = session.metrics
            event = replace(event, final=dict(metrics["final"]), warnings=tuple(map(str, metrics.get("warnings", ()))))
            self.close()
        return event

    def close(self) -> None:
        """Leave the current seed; its checkpoints stay."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()


def step_together(workers: Sequence[Worker]) -> list[Event | None]:
    """One epoch of each one's current seed, at once where their sessions can.

    None: somebody works on the same recipe, one of ``workers`` or another process. Only where nothing else is left to do here is that
    waited for: who waits holds nothing that somebody could wait for.
    """
    events: dict[int, Event] = {}
    left = list(range(len(workers)))
    while left:
        found: dict[int, dict[str, float] | Exception] = {}
        alike: dict[Callable[..., Any] | None, dict[int, SessionLike]] = {}
        for wait in (False, True) if len(workers) > 1 else (True,):
            for index in left:
                try:
                    session = workers[index].open(wait)
                except Exception as error:
                    found[index] = error
                else:
                    if session is not None:
                        alike.setdefault(getattr(type(session), "step_together", None), {})[index] = session
                if wait:
                    break
            if alike or found or events:
                break
        for together, sessions in alike.items():
            rows = [_stepped(session) for session in sessions.values()] if together is None else together(list(sessions.values()))
            found |= zip(sessions, rows, strict=True)
        taken = {index: workers[index].take(row) for index, row in found.items()}
        events |= {index: event for index, event in taken.items() if event is not None}
        left = [index for index, event in taken.items() if event is None]
    return [events.get(index) for index in range(len(workers))]


def _stepped(session: SessionLike) -> dict[str, float] | Exception:
    try:
        return session.step()
    except Exception as error:
        return error


class Workers:
    """The assignments of one process."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def set(self, works: Sequence[Work]) -> None:
        """From now on these: who is not among them leaves, who is new begins."""
        wanted = {work.id: work for work in works}
        for id in self._workers.keys() - wanted.keys():
            self._workers.pop(id).close()
        for id, work in wanted.items():
            if id not in self._workers:
                self._workers[id] = Worker(work)

    def step(self) -> list[tuple[str, Event]]:
        """An epoch of each that has not ended: (assignment's id, event)."""
        running = {id: worker for id, worker in self._workers.items() if not worker.ended}
        events = step_together(list(running.values()))
        return [(id, event) for id, event in zip(running, events, strict=True) if event is not None]

    def close(self) -> None:
        """Leave all; their checkpoints stay."""
        self.set(())


def failure(seed: int, error: Exception) -> Event:
    """The event of a training run that cannot go on."""
    if isinstance(error, KDSearchError):
        return Event(seed, failure=str(error), storage=isinstance(error, StoreError))
    trace = "".join(traceback.format_exception(error))[-2000:]
    return Event(seed, failure=f"{type(error).__name__}: {error}", trace=trace)


def recipe_json(recipe: Recipe) -> str:
    """A recipe as text: how it travels, and its identity where no key is at hand."""
    return json.dumps(recipe.model_dump(mode="json"), separators=(",", ":"), sort_keys=True)
