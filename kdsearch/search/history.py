"""What samplers and pruners ask of the trials of a book, kept as trials end, so that neither goes through all of them each time."""

from __future__ import annotations

import math
from array import array
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

BEST = 25
"""So many of the best trials are kept: the most that TPE takes as good ones."""
NEWEST = 1000
"""So many of the newest other trials TPE takes as bad ones: those with the highest numbers."""


class Ended(NamedTuple):
    """A trial that is complete or pruned."""

    number: int
    rank: tuple[float, ...]
    """Optuna's order of ended trials, best first; it ends with the number."""
    values: dict[str, float]
    """Its parameters as Optuna counts."""


@dataclass
class History:
    """Trials of one objective. It follows from the record whatever the order in which trials end, so one made anew from the record is
    as good."""

    maximize: bool
    total: int = 0
    """Trials that are complete or pruned."""
    best: list[Ended] = field(default_factory=list)
    """The ``BEST`` best, best first."""
    newest: list[Ended] = field(default_factory=list)
    """The last ``NEWEST + BEST`` by number."""
    spaces: dict[frozenset[str], tuple[int, Mapping[str, BaseDistribution]]] = field(default_factory=dict)
    """Parameters that trials have → the first such trial's number and distributions."""
    running: dict[int, FrozenTrial] = field(default_factory=dict)
    """Number → trial, with its parameters: not the one that is being sampled."""
    complete: int = 0
    """Trials that are complete."""
    reported: dict[int, array[float]] = field(default_factory=dict)
    """Step → intermediate values of the complete trials."""

    def begin(self, trial: FrozenTrial) -> None:
        """Take a running trial that has its parameters."""
        self.running[trial.number] = trial

    def end(self, trial: FrozenTrial) -> None:
        """Take a trial that ended."""
        self.running.pop(trial.number, None)
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or len(trial.values or ()) > 1:
            return
        values = {name: trial.distributions[name].to_internal_repr(value) for name, value in trial.params.items()}
        ended = Ended(trial.number, _rank(trial, -1.0 if self.maximize else 1.0), values)
        self.total += 1
        insort(self.best, ended, key=attrgetter("rank"))
        del self.best[BEST:]
        insort(self.newest, ended, key=attrgetter("number"))
        del self.newest[: -(NEWEST + BEST)]
        names = frozenset(values)
        if names not in self.spaces or trial.number < self.spaces[names][0]:
            self.spaces[names] = (trial.number, trial.distributions)
        if trial.state == TrialState.COMPLETE:
            self.complete += 1
            for step, value in trial.intermediate_values.items():
                self.reported.setdefault(step, array("d")).append(value)

    def split(self) -> tuple[list[Ended], list[Ended]]:
        """TPE's good trials (the best tenth, ``BEST`` at most) and the ``NEWEST`` newest others, both by number."""
        below = sorted(self.best[: math.ceil(0.1 * self.total)])
        good = {ended.number for ended in below}
        return below, [ended for ended in self.newest if ended.number not in good][-NEWEST:]


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, ...]:
    """Optuna's order of ended trials: complete by value, then pruned by how far they came, then those that break constraints."""
    excess = sum(value for value in trial.constraints.values() if value > 0)
    if excess > 0:
        return (2, excess, 0, trial.number)
    if trial.state == TrialState.COMPLETE:
        return (0, sign * trial.value, 0, trial.number)
    if not trial.intermediate_values:
        return (1, 1, 0, trial.number)
    step, value = max(trial.intermediate_values.items())
    return (1, -step, math.inf if math.isnan(value) else sign * value, trial.number)
