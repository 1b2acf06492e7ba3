"""Which assignments one process trains at once.

Small networks train fastest several at a time in one process (:mod:`kdsearch.training.stacked`), each with its own configuration, epochs
and place in the record. Such a crew starts with one assignment; once that has said how many of its kind are best at once, others join,
and whoever is pruned or done makes room for the next. Where a process has nothing left to do, another's crew gives it half of its members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kdsearch.search.ledger import Ledger
from kdsearch.search.prerequisites import Prerequisites
from kdsearch.search.progress import Progress
from kdsearch.search.work import Event

GENERATIONS = 3
"""A sampler that learns, or a pruner, has seen the ends of trials so many times over a study, at the least: what runs at once, over all
processes, is a third of the budget at most, unless the study says otherwise (``resources.together``)."""


class Job(Protocol):
    """What a worker can be given: a trial's assignment, or a prerequisite."""

    @property
    def id(self) -> str:
        """Names it, in a run."""

    @property
    def texts(self) -> tuple[tuple[int, str], ...]:
        """(seed, recipe as JSON), in the order they run."""


@dataclass
class Crew:
    """Jobs that one process trains an epoch of each at a time."""

    members: dict[str, Job] = field(default_factory=dict)
    """None while others have something to train that this one may get."""
    source: Ledger | Prerequisites | None = None
    alone: bool = False
    """Nobody joins the one there is."""
    version: int = 0
    """How often the members have changed."""
    stack: int = 1
    """How many of the kind of those that trained last are best trained at once."""


class Crews:
    """Forms crews, of prerequisites first and then of what a ledger hands out, and takes what they report to those."""

    def __init__(
        self, ledger: Ledger, prerequisites: Prerequisites, room: Callable[[], int], progress: Progress, *, gives: bool = True
    ) -> None:
        """``room``: processes there are; ``gives``: whether each sees the others' last checkpoints, so that one can go on for another."""
        self._gives = gives
        self._ledger, self._prerequisites, self._room, self._progress = ledger, prerequisites, room, progress
        self._most = ledger.study.resources.together
        self._aside: list[tuple[Ledger | Prerequisites, Job]] = []
        self._given: list[dict[str, Job]] = []
        """Halves of crews, for whoever is idle."""
        self._running: list[Crew] = []
        self._searches = False

    def start(self) -> Crew | None:
        """A new crew; None when there is nothing left to hand out."""
        crew = Crew()
        self._begin(crew)
        if not crew.members and not self._waits:
            return None
        self._running.append(crew)
        return crew

    def _begin(self, crew: Crew) -> None:
        """Give a crew without members one, if there is any."""
        job: Job | None
        if self._aside:
            crew.source, job = self._aside.pop()
            crew.alone = True
        elif (job := self._prerequisites.next()) is not None:
            crew.source, crew.alone = self._prerequisites, True
        elif self._given:
            crew.source, crew.alone, crew.members = self._ledger, False, self._given.pop()
        elif not self._prerequisites.running:
            if not self._searches:
                self._searches = True
                self._progress.start(self._ledger)
            crew.source, crew.alone, job = self._ledger, False, self._ledger.next()
        if job is not None:
            crew.members[job.id] = job

    @property
    def _waits(self) -> bool:
        """Whether who is idle now may yet have something to train: after prerequisites, or out of another's crew."""
        return bool(self) or any(self._may_give(crew) for crew in self._running)

    def take(self, crew: Crew, events: Sequence[tuple[str, Event]], may_join: Callable[[], bool] = lambda: True) -> bool:
        """Take an epoch of each member: who has ended leaves, and others join while ``may_join``; whether the crew goes on."""
        before = set(crew.members)
        crew.stack = min((event.stack for _, event in events), default=1)
        for id, event in events:
            if crew.source is None or not crew.source.report(id, event):
                crew.members.pop(id, None)
        if crew.source is self._ledger:
            self._progress.update(self._ledger)
        if not crew.members and may_join():
            self._begin(crew)
        while crew.members and not crew.alone and not self._aside and len(crew.members) < self._share(crew) and may_join():
            found = self._ledger.next()
            if found is None:
                break
            crew.members[found.id] = found
        idle = sum(not other.members for other in self._running)
        if idle > len(self._given) and self._may_give(crew) and not self._ledger.waiting:
            leaving = list(crew.members)[-(len(crew.members) // 2) :]
            self._given.append({id: crew.members.pop(id) for id in leaving})
        crew.version += before != set(crew.members)
        goes_on = bool(crew.members) or (self._waits and may_join())
        if not goes_on:
            self.end(crew)
        return goes_on

    def _may_give(self, crew: Crew) -> bool:
        """Whether somebody idle could take members over. Their sessions go on there from their last epochs."""
        return self._gives and crew.source is self._ledger and not crew.alone and len(crew.members) > 1

    def end(self, crew: Crew) -> None:
        """The crew is no more."""
        self._running = [other for other in self._running if other is not crew]

    def again(self, crew: Crew, job: Job) -> None:
        """Have a job run by itself: its process died, or that of its crew."""
        assert crew.source is not None
        self._aside.append((crew.source, job))

    def __bool__(self) -> bool:
        """Whether there is more to run than the ledger's: jobs by themselves or given away, or prerequisites."""
        return bool(self._aside or self._given) or self._prerequisites.running > 0

    def _share(self, crew: Crew) -> int:
        """How many a crew has at once, so that none has work left when others have none."""
        if crew.stack == 1:
            return 1
        room = max(1, self._room())
        fair = -(-(self._ledger.waiting + len(self._ledger.running)) // room)
        most = self._most
        if most is None and self._ledger.learns:
            most = max(1, self._ledger.planned // (GENERATIONS * room))
        return min(crew.stack, fair, crew.stack if most is None else most)
