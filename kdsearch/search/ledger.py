"""The ledger: the one writer of a run's record. It hands out assignments and takes what workers report.

Both ways of running, Ray and inline, drive the same ledger, so they ask, prune and record alike. The truth is in the record: the
ledger keeps in memory only what is running, and a new one over the same record goes on where the last one stopped.

- A *search trial* of an adaptive study is a configuration: the pruner sees the epochs of its first seed, survivors run the other
  seeds in the same assignment, and Optuna is told the mean of the final values. Of a grid it is a cell on a seed.
- *Baselines* run first, a trial per stratum and seed, in a study that neither sampler nor pruner sees.
- *Late seeds*: seeds appended to an adaptive study run for its finished trials too; since finished trials cannot be changed, what
  they gave is kept beside them (see :data:`kdsearch.record.trials.LATE`).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from kdsearch.record.run import Run
from kdsearch.record.trials import SEED
from kdsearch.search.book import Book, identity
from kdsearch.search.pruners import over_seeds
from kdsearch.search.samplers import adaptive, to_optuna
from kdsearch.search.work import Event, recipe_json
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.study import Baseline, Stratum, Study

ALL_ALIKE = 5
"""When this many trials fail for the same reason before any has ended well, the study stops."""


@dataclass(frozen=True)
class Assignment:
    """A trial to run: its seeds, one after another."""

    id: str
    number: int
    label: str
    """Stratum or ``baselines``, for people."""
    params: Mapping[str, Any]
    recipes: tuple[tuple[int, Recipe], ...]

    @property
    def texts(self) -> tuple[tuple[int, str], ...]:
        """(seed, recipe as JSON): what a worker gets."""
        return tuple((seed, recipe_json(recipe)) for seed, recipe in self.recipes)


@dataclass
class _Open:
    """What is known of an assignment that runs."""

    assignment: Assignment
    book: Book
    trial: optuna.Trial | None
    """None: seeds appended to a finished trial."""
    epoch: int = 0
    """Last epoch of the first seed that was taken."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


class Ledger:
    """See the module's text. Not for several threads."""

    def __init__(self, study: Study, run: Run) -> None:
        self.study = study
        self.metric = study.objective.metric
        self._reports_epochs = len(study.objectives()) == 1 and not over_seeds(study.pruner)
        self._prunes = study.pruner.name != "none"
        strata = study.strata_list()
        fixed = [(s, b, seed) for s in strata for b in study.baselines_list(s) for seed in study.seeds]
        self.baselines = Book(study, run, None, len(fixed))
        self.searches = [Book(study, run, stratum, study.planned_trials(stratum)) for stratum in strata]
        self._open: dict[str, _Open] = {}
        self._fixed = deque(self._missing_baselines(fixed))
        self._late = deque((book, *lacking) for book in self.searches if not study.is_grid for lacking in book.missing_seeds())
        self._cells = {id(book): deque(self._missing_cells(book)) for book in self.searches} if study.is_grid else {}
        self._deadline = time.monotonic() + 60 * study.budget.minutes if study.budget.minutes is not None else math.inf
        self._alike: dict[str, int] = {}
        self._good = False
        self.late_failed = 0
        self.halted: str | None = None
        """Why no more trials are handed out although the budget is not spent; None while all is well."""
        self.abandoned: list[str] = []
        """Keys of the networks that were half trained when their trials were pruned."""
        self.failed_children: dict[str, str] = {}
        """Prerequisites that could not be trained (as JSON) → reason; trials that need one fail with it."""

    # Handing out

    def next(self) -> Assignment | None:
        """The next assignment; None when there is none left to hand out."""
        while self.halted is None and time.monotonic() < self._deadline:
            given = self._next_baseline() or self._next_late() or self._next_search()
            if given is None:
                return None
            self._open[given.assignment.id] = given
            reason = self._blocked(given.assignment)
            if reason is None:
                return given.assignment
            self._fail(given, reason)
        return None

    @property
    def learns(self) -> bool:
        """Whether what trials gave has a say in which run next, or how long."""
        return adaptive(self.study)

    @property
    def planned(self) -> int:
        """Trials of the whole study, baselines among them."""
        return sum(book.counts.planned for book in (self.baselines, *self.searches))

    @property
    def waiting(self) -> int:
        """Assignments that are still to be handed out."""
        counts = [book.counts for book in (self.baselines, *self.searches)]
        return len(self._late) + sum(max(0, count.planned - count.done - count.running) for count in counts)

    @property
    def running(self) -> list[Assignment]:
        """Assignments that were handed out and have not ended."""
        return [given.assignment for given in self._open.values()]

    def _next_baseline(self) -> _Open | None:
        if not self._fixed:
            return None
        stratum, baseline, seed = self._fixed.popleft()
        attrs = {"stratum": stratum.name, "baseline": baseline.name, "params": baseline.params, "seed": seed}
        trial = self.baselines.begin({}, {}, attrs)
        recipe = self.study.recipe_for_baseline(baseline, stratum, seed)
        return self._opened(self.baselines, trial, trial.number, baseline.params, ((seed, recipe),))

    def _next_late(self) -> _Open | None:
        if not self._late:
            return None
        book, number, params, seeds = self._late.popleft()
        assert book.stratum is not None
        recipes = tuple((seed, self.study.recipe_for(params, book.stratum, seed)) for seed in seeds)
        return self._opened(book, None, number, params, recipes)

    def _next_search(self) -> _Open | None:
        open_books = [book for book in self.searches if book.counts.done + book.counts.running < book.counts.planned]
        if self.study.is_grid:
            open_books = [book for book in open_books if self._cells[id(book)]]
        if not open_books:
            return None
        # Fair: the stratum that is furthest from its budget, the first of them where several are.
        book = min(open_books, key=lambda b: (b.counts.done + b.counts.running) / b.counts.planned)
        assert book.stratum is not None
        if self.study.is_grid:
            params, seed = self._cells[id(book)].popleft()
            values, distributions = to_optuna(book.parameters, params)
            trial = book.begin(values, distributions, {"params": params, "seed": seed})
            seeds: tuple[int, ...] = (seed,)
        else:
            trial, params = book.ask()
            seeds = self.study.seeds
        recipes = tuple((seed, self.study.recipe_for(params, book.stratum, seed)) for seed in seeds)
        return self._opened(book, trial, trial.number, params, recipes)

    def _opened(
        self, book: Book, trial: optuna.Trial | None, number: int, params: Mapping[str, Any], recipes: tuple[tuple[int, Recipe], ...]
    ) -> _Open:
        kind = "late" if trial is None else "trial"
        assignment = Assignment(f"{book.name} {kind} {number}", number, book.label, params, recipes)
        return _Open(assignment, book, trial)

    def _missing_baselines(self, fixed: list[tuple[Stratum, Baseline, int]]) -> list[tuple[Stratum, Baseline, int]]:
        done = {
            (trial.user_attrs["stratum"], trial.user_attrs["baseline"], identity(trial.user_attrs["params"]), trial.user_attrs["seed"])
            for trial in self.baselines.finished()
        }
        return [(s, b, seed) for s, b, seed in fixed if (s.name, b.name, identity(b.params), seed) not in done]

    def _missing_cells(self, book: Book) -> Iterator[tuple[dict[str, Any], int]]:
        assert book.stratum is not None
        done = {(identity(trial.user_attrs["params"]), trial.user_attrs["seed"]) for trial in book.finished()}
        cells = self.study.grid(book.stratum)
        for seed in self.study.seeds:  # the whole plane on one seed before the next, so that a picture is there early
            yield from ((cell, seed) for cell in cells if (identity(cell), seed) not in done)

    def _blocked(self, assignment: Assignment) -> str | None:
        if not self.failed_children:
            return None
        for _, recipe in assignment.recipes:
            for child in descendants(recipe):
                if (reason := self.failed_children.get(recipe_json(child))) is not None:
                    return f"prerequisite failed: {reason}"
        return None

    # Taking

    def report(self, id: str, event: Event) -> bool:
        """Take what a worker did; returns whether it goes on with this assignment. An event taken before changes nothing."""
        given = self._open.get(id)
        if given is None:
            return False
        if event.storage:
            return self._halt(given, event.failure or "the store failed")
        if event.failure is not None:
            return self._fail(given, event.failure, event.trace, event.seed)
        value = (event.row or {}).get(self.metric)
        if value is None:
            return self._fail(given, f"epoch {event.epoch} has no {self.metric}; it has: {', '.join(event.row or {})}", seed=event.seed)
        if not math.isfinite(value):
            return self._fail(given, f"epoch {event.epoch}: {self.metric} is {value}", seed=event.seed)
        if given.trial is None:
            return self._late_seed(given, event, value)
        stop = False
        first, last = given.assignment.recipes[0][0], given.assignment.recipes[-1][0]
        if event.seed == first and event.epoch > given.epoch:
            stop = self._first_seed(given, given.trial, event, value) and not (event.final is not None and first == last)
        if event.final is not None and event.seed not in given.records:
            record = self._record(event, value)
            wrong = self._unmeasured(record)
            if wrong is not None:
                return self._fail(given, wrong)
            stop = self._seed_done(given, given.trial, event.seed, record) or stop
            if len(given.records) == len(given.assignment.recipes):
                return self._complete(given, given.trial)
        if stop:
            self._close(given)
            self._good = True
            given.book.prune(given.trial)
            if event.final is None and event.key is not None:
                self.abandoned.append(event.key)
            return False
        return True

    def lost(self, id: str, reason: str) -> None:
        """Take that the workers of an assignment died more often than is tried again."""
        if (given := self._open.get(id)) is not None:
            self._fail(given, reason)

    def interrupt(self) -> None:
        """Close everything that runs; it is asked first when the study goes on."""
        for given in list(self._open.values()):
            self._interrupt(given)

    def _interrupt(self, given: _Open) -> None:
        self._close(given)
        if given.trial is not None:
            given.book.interrupt(given.trial.number, given.trial._trial_id)

    def _halt(self, given: _Open, reason: str) -> bool:
        self.halted = self.halted or reason
        self._interrupt(given)
        return False

    def _first_seed(self, given: _Open, trial: optuna.Trial, event: Event, value: float) -> bool:
        """Take an epoch of the first seed; returns whether the pruner stops the trial."""
        if given.epoch == 0 and event.key is not None:
            trial.set_user_attr("key", event.key)
        given.epoch = event.epoch
        if not self._reports_epochs:
            given.curve.append((event.epoch, value))
            return False
        trial.report(value, event.epoch)
        return self._prunes and given.book is not self.baselines and trial.should_prune()

    def _seed_done(self, given: _Open, trial: optuna.Trial, seed: int, record: dict[str, Any]) -> bool:
        """Take the end of a seed; returns whether a pruner over seeds stops the trial."""
        trial.set_user_attr(f"{SEED}{seed}", record)
        if not given.records:
            if given.curve:
                trial.set_user_attr("curve", json.dumps(given.curve))
            for constraint in self.study.constraints:
                trial.set_constraint(str(constraint), constraint.excess(float(record["metrics"][constraint.metric])))
        given.records[seed] = record
        if not over_seeds(self.study.pruner) or len(self.study.objectives()) > 1:
            return False
        trial.report(record["value"], len(given.records) - 1)
        more = len(given.records) < len(given.assignment.recipes)
        return more and given.book is not self.baselines and trial.should_prune()

    def _complete(self, given: _Open, trial: optuna.Trial) -> bool:
        records = given.records.values()
        names = [objective.metric for objective in self.study.objectives()[1:]]
        values = [math.fsum(r["value"] for r in records) / len(records)]
        values += [math.fsum(float(r["metrics"][name]) for r in records) / len(records) for name in names]
        repeated = given.book.first.get(identity(given.assignment.params))
        if repeated is not None:
            trial.set_user_attr("warnings", [f"same configuration as trial {repeated}, so no evidence of its own"])
        self._close(given)
        self._good = True
        given.book.complete(trial, values, given.assignment.params)
        return False

    def _late_seed(self, given: _Open, event: Event, value: float) -> bool:
        if event.final is not None:
            given.records[event.seed] = record = self._record(event, value)
            given.book.keep_late(given.assignment.number, event.seed, record)
        if len(given.records) == len(given.assignment.recipes):
            self._close(given)
            return False
        return True

    def _record(self, event: Event, value: float) -> dict[str, Any]:
        metrics = {name: v for name, v in (event.final or {}).items() if isinstance(v, int | float) and math.isfinite(v)}
        return {"value": value, "key": event.key, "metrics": metrics, "warnings": list(event.warnings)}

    def _unmeasured(self, record: Mapping[str, Any]) -> str | None:
        needed = [o.metric for o in self.study.objectives()[1:]] + [c.metric for c in self.study.constraints]
        lacking = [name for name in needed if name not in record["metrics"]]
        return f"the training run has no finite {', '.join(lacking)}" if lacking else None

    def _fail(self, given: _Open, reason: str, trace: str | None = None, seed: int | None = None) -> bool:
        self._close(given)
        if given.trial is not None:
            given.book.fail(given.trial, reason, trace)
        else:
            self.late_failed += 1
            for late, _ in given.assignment.recipes:
                if late not in given.records and seed in (None, late):
                    given.book.keep_late(given.assignment.number, late, {"reason": reason})
        self._all_alike(reason)
        return False

    def _all_alike(self, reason: str) -> None:
        kind = re.sub(r"[0-9.e+-]*\d", "#", reason)  # the same reason at another epoch or learning rate is the same reason
        self._alike[kind] = self._alike.get(kind, 0) + 1
        if not self._good and self._alike[kind] == sum(self._alike.values()) >= ALL_ALIKE:
            self.halted = f"the first {self._alike[kind]} trials all failed: {reason}"

    def _close(self, given: _Open) -> None:
        self._open.pop(given.assignment.id, None)

    # Looking

    @property
    def books(self) -> list[Book]:
        """Books with something planned in them: baselines first."""
        return [book for book in (self.baselines, *self.searches) if book.counts.planned or book.counts.done]

    @property
    def failed(self) -> int:
        """Failed trials, interrupted ones not among them."""
        return sum(book.counts.failed for book in (self.baselines, *self.searches)) + self.late_failed


def descendants(recipe: Recipe) -> Iterator[Recipe]:
    """Every recipe that ``recipe`` needs trained, children before those that need them; repeated ones too."""
    for child in recipe.children().values():
        yield from descendants(child)
        yield child
