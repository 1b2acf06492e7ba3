"""Which assignments one process trains at once.

Small networks train fastest several at a time in one process (:mod:`kdsearch.training.stacked`), each with its own configuration, epochs
and place in the record. Such a crew starts with one assignment; once that has said how many of its kind are best at once, others join,
and whoever is pruned or done makes room for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdsearch.search.ledger import Assignment, Ledger
from kdsearch.search.samplers import adaptive
from kdsearch.search.work import Event

GENERATIONS = 6
"""An adaptive sampler or a pruner has seen the ends of trials so many times over a study, at the least: what runs at once, over all
processes, is a sixth of the budget at most, unless the study says otherwise (``resources.together``)."""


@dataclass
class Crew:
    """Assignments that one process trains an epoch of each at a time."""

    members: dict[str, Assignment]
    alone: bool = False
    """Nobody joins."""
    version: int = 0
    """How often the members have changed."""
    stack: int = field(default=1, init=False)
    """How many of their kind are best trained at once."""


class Crews:
    """Forms crews out of what a ledger hands out, and takes what they report to it."""

    def __init__(self, ledger: Ledger, room: Callable[[], int]) -> None:
        """``room``: processes there are."""
        self._ledger, self._room = ledger, room
        study = ledger.study
        self._most = study.resources.together
        self._adapts = adaptive(study)
        self._running: list[Crew] = []
        self._aside: list[Assignment] = []

    def start(self) -> Crew | None:
        """A new crew of one; None when there is nothing left to hand out."""
        if self._aside:
            return self._began(Crew({(given := self._aside.pop()).id: given}, alone=True))
        found = self._ledger.next()
        return None if found is None else self._began(Crew({found.id: found}))

    def _began(self, crew: Crew) -> Crew:
        self._running.append(crew)
        return crew

    def take(self, crew: Crew, events: Sequence[tuple[str, Event]], may_join: Callable[[], bool] = lambda: True) -> None:
        """Take an epoch of each member: who has ended leaves, and others join while ``may_join``."""
        before = set(crew.members)
        for id, event in events:
            crew.stack = max(crew.stack, event.stack)
            if not self._ledger.report(id, event):
                crew.members.pop(id, None)
        while not crew.alone and not self._aside and len(crew.members) < self._share(crew) and may_join():
            found = self._ledger.next()
            if found is None:
                break
            crew.members[found.id] = found
        crew.version += before != set(crew.members)
        if not crew.members:
            self.ended(crew)

    def ended(self, crew: Crew) -> None:
        """The process is free for another crew."""
        if crew in self._running:
            self._running.remove(crew)

    def again(self, given: Assignment) -> None:
        """Have an assignment run by itself: its process died, or that of its crew."""
        self._aside.append(given)

    def __bool__(self) -> bool:
        """Whether assignments wait to be run by themselves."""
        return bool(self._aside)

    def _share(self, crew: Crew) -> int:
        """How many a crew has at once, so that none has work left when others have none."""
        if crew.stack == 1:
            return 1
        room = max(1, self._room())
        fair = -(-(self._ledger.waiting + len(self._ledger.running)) // room)
        most = self._most
        if most is None and self._adapts:
            most = max(1, self._ledger.planned // (GENERATIONS * room))
        return min(crew.stack, fair, crew.stack if most is None else most)
