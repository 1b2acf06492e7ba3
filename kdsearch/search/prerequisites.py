"""What trials share and need trained: teachers, teacher assistants, pre-trained students. Each distinct one once, before the trials."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdsearch.errors import SpecError, StoreError
from kdsearch.search.ledger import descendants
from kdsearch.search.work import Event, recipe_json
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.space import Parameter
from kdsearch.spec.study import Stratum, Study

MOST_COMBINATIONS = 512
"""Where the parameters that shape prerequisites have more combinations, what a trial needs is trained with it, under a lease."""


@dataclass(frozen=True)
class Prerequisite:
    """One distinct recipe that others start from or learn from."""

    recipe: str
    """As JSON; its identity."""
    needs: tuple[str, ...]
    """Prerequisites it has itself."""
    epochs: int
    seed: int

    @property
    def id(self) -> str:
        """A short name."""
        return f"prerequisite {hashlib.sha256(self.recipe.encode()).hexdigest()[:12]}"

    @property
    def texts(self) -> tuple[tuple[int, str], ...]:
        """(seed, recipe as JSON): what a worker gets."""
        return ((self.seed, self.recipe),)


def prerequisites(study: Study) -> list[Prerequisite]:
    """Distinct prerequisites of a study, each after those it needs."""
    found: dict[str, Prerequisite] = {}
    for recipe in _recipes(study):
        for child in descendants(recipe):
            text = recipe_json(child)
            if text not in found:
                needs = tuple(recipe_json(grandchild) for grandchild in child.children().values())
                found[text] = Prerequisite(text, needs, 1 if child.pretrained else child.optim.epochs, child.seed)
    return list(found.values())


def _recipes(study: Study) -> Iterator[Recipe]:
    """Recipes that between them need every prerequisite known beforehand."""
    for stratum, seed in itertools.product(study.strata_list(), study.seeds):
        for baseline in study.baselines_list(stratum):
            yield study.recipe_for_baseline(baseline, stratum, seed)
        configurations: Iterable[Mapping[str, Any]] = study.grid(stratum) if study.is_grid else _combinations(study, stratum)
        for params in configurations:
            yield study.recipe_for(params, stratum, seed)


def _combinations(study: Study, stratum: Stratum) -> list[dict[str, Any]]:
    """Configurations that run through every value of the parameters that shape children, others at some value of theirs."""
    draw = random.Random(0)
    structure = study.structure(stratum)
    samples = [structure.sample(draw) for _ in range(8)]
    shaping = [p for p in study.parameters(stratum) if _shapes(study, stratum, p, samples)]
    levels = [study.space[p.name].levels() for p in shaping]
    known = [values for values in levels if values is not None]
    if len(known) < len(levels) or math.prod(map(len, known)) > MOST_COMBINATIONS:
        return []
    found: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*known):
        params = structure.assignment({p.name: value for p, value in zip(shaping, combination, strict=True)})
        found.setdefault(str([params.get(p.name) for p in shaping]), params)
    return list(found.values())


def _shapes(study: Study, stratum: Stratum, parameter: Parameter, samples: list[dict[str, Any]]) -> bool:
    """Whether children change with the parameter, looked at from a few places of the space."""
    for sample in samples:
        seen = set()
        for value in study.space[parameter.name].levels() or study.space[parameter.name].corners():
            params = _valid(study, stratum, {**sample, parameter.name: value})
            if params is not None:
                seen.add(tuple(recipe_json(child) for child in study.recipe_for(params, stratum, 0).children().values()))
        if len(seen) > 1:
            return True
    return False


def _valid(study: Study, stratum: Stratum, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """``params`` without those that do not exist under the others; None when one that must exist is missing."""
    kept: dict[str, Any] = {}
    for parameter in study.parameters(stratum):
        if parameter.active(kept):
            if parameter.name not in params:
                return None
            kept[parameter.name] = params[parameter.name]
    try:
        return study.check_params(kept, stratum)
    except SpecError:
        return None


class Prerequisites:
    """Hands out prerequisites, each once those it needs are there, and takes what workers report, as a ledger does for trials."""

    def __init__(self, wanted: list[Prerequisite], show: Callable[[int, int, int, int], None]) -> None:
        """``show``: told the finished of all networks, and epochs of all."""
        self._left = list(wanted)
        self._open: dict[str, Prerequisite] = {}
        self._show = show
        self._networks, self._planned = len(wanted), sum(one.epochs for one in wanted)
        self._epochs: Counter[str] = Counter()
        self._ended: set[str] = set()
        self.failed: dict[str, str] = {}
        """Recipes (as JSON) that could not be trained → reason."""
        if wanted:
            self._tell()

    def next(self) -> Prerequisite | None:
        """One whose own prerequisites have ended; None where there is none now."""
        for one in list(self._left):
            if all(needed in self._ended for needed in one.needs):
                self._left.remove(one)
                self._open[one.id] = one
                reason = next((self.failed[needed] for needed in one.needs if needed in self.failed), None)
                if reason is None:
                    return one
                self.lost(one.id, reason)
        return None

    @property
    def running(self) -> int:
        """Handed out, and not ended."""
        return len(self._open)

    def report(self, id: str, event: Event) -> bool:
        """Count what happened; returns whether it goes on.

        Raises:
            StoreError: the store could not be read or written.
        """
        one = self._open.get(id)
        if one is None:
            return False
        if event.storage:
            raise StoreError(event.failure)
        if event.failure is not None:
            self.failed[one.recipe] = event.failure
        elif event.epoch:
            self._epochs[one.recipe] = max(self._epochs[one.recipe], event.epoch)
        over = event.failure is not None or event.final is not None
        if over:
            self._ended.add(one.recipe)
            del self._open[id]
        self._tell()
        return not over

    def lost(self, id: str, reason: str) -> None:
        """Take that it cannot be trained."""
        self.report(id, Event(0, failure=reason))

    def _tell(self) -> None:
        self._show(len(self._ended), self._networks, sum(self._epochs.values()), self._planned)
