"""Confirm a search: its best configurations again, on fresh seeds, through the same engine; recorded apart and resumable.

Two rounds, see :mod:`kdsearch.analysis.confirm` for why: the top K on *choice* seeds, whose validation data choose; then the choice
and the baselines on *report* seeds, whose test data give the interval. ``with_validation`` adds a third: the choice trained on all
training data, validation images included, on the report seeds.

A trial is a configuration on a seed, in the Optuna study ``<name> | confirm``, which neither sampler nor pruner sees. Running it
again adds what is missing: more seeds, a larger K. The search may have gone on in between; then so does the confirmation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.analysis.confirm import (
    CHOICE_SEEDS,
    REPORT_SEEDS,
    Confirmation,
    choice_values,
    chosen_configuration,
    confirmation,
    fresh_seeds,
    identity,
    test_metric,
)
from kdsearch.analysis.eligible import keeps_constraints, nothing_eligible, search_choices
from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.search.book import Book
from kdsearch.search.engine import Outcome, run_study
from kdsearch.search.ledger import Ledger, _Open
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.search.work import Event
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.study import Baseline, Stratum, Study


@dataclass(frozen=True)
class Job:
    """One configuration on one fresh seed."""

    stratum: Stratum
    role: str
    """``confirm``; ``final`` for training on everything; ``baseline``."""
    params: dict[str, Any]
    seed: int
    recipe: Recipe
    baseline: str | None = None

    def attrs(self) -> dict[str, Any]:
        """What the record keeps of it."""
        found = {"role": self.role, "stratum": self.stratum.name, "params": self.params, "seed": self.seed}
        return found if self.baseline is None else {**found, "baseline": self.baseline}

    @property
    def id(self) -> tuple[Any, ...]:
        """Equal for the same job."""
        return self.role, self.stratum.name, self.baseline, identity(self.params), self.seed


class ConfirmLedger(Ledger):
    """Hands out the jobs that the record lacks; takes reports as any ledger does."""

    def __init__(self, study: Study, run: Run, jobs: Sequence[Job]) -> None:
        super().__init__(study, run)
        self.searches, self._cells = [], {}
        self._fixed, self._late = deque(), deque()
        self._deadline = math.inf  # budget.minutes is the search's
        self.baselines = Book(study, run, None, len(jobs), role="confirm")
        done = {_id_of(trial.user_attrs) for trial in self.baselines.finished()}
        self._jobs = deque(job for job in jobs if job.id not in done)
        self.baselines.counts.planned = self.baselines.counts.done + len(self._jobs)
        self._without_validation: set[str] = set()

    @property
    def learns(self) -> bool:
        return False

    def _next_baseline(self) -> _Open | None:
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        trial = self.baselines.begin({}, {}, job.attrs())
        given = self._opened(self.baselines, trial, trial.number, job.params, ((job.seed, job.recipe),))
        if job.role == "final":
            self._without_validation.add(given.assignment.id)
        return given

    def report(self, id: str, event: Event) -> bool:
        """As any ledger; of a network that was trained on the validation images too, the value is that on test data."""
        if id in self._without_validation and event.row is not None:
            event = replace(event, row={**event.row, self.metric: event.row[test_metric(self.metric)]})
        return super().report(id, event)


def _id_of(attrs: dict[str, Any]) -> tuple[Any, ...]:
    return attrs["role"], attrs["stratum"], attrs.get("baseline"), identity(attrs["params"]), attrs["seed"]


def confirm_study(
    study: Study,
    run: Run,
    store: Store | str | Path,
    options: RunOptions,
    progress: Callable[[], Progress],
    *,
    top: int = 5,
    seeds: int = 5,
    with_validation: bool = False,
) -> tuple[list[Confirmation], Outcome]:
    """Confirm the ``top`` best of each stratum on ``seeds`` fresh seeds for the choice and as many for the report.

    Constraints are kept; of two objectives the whole Pareto front is confirmed, and the first objective chooses. Where the outcome's
    exit code is 130 or 143 the confirmations are those so far; the same command goes on.

    Raises:
        NothingEligible: no stratum has a finished configuration that keeps the constraints.
    """
    rows = read_trials(run)
    candidates = {s.name: [c.params for c in search_choices(rows, study, s.name, top)] for s in study.strata_list()}
    if not any(candidates.values()):
        raise nothing_eligible(rows, study, run.path)
    outcome: Outcome | None = None
    for round_ in (1, 2):
        jobs = list(
            _choice_jobs(study, candidates, seeds) if round_ == 1 else _report_jobs(study, rows, candidates, seeds, with_validation)
        )
        if jobs:
            done = run_study(study, run, store, options, progress(), partial(ConfirmLedger, jobs=jobs))
            outcome = done if outcome is None else _together(outcome, done)
            if done.exit_code in (1, 130, 143):
                break
            rows = read_trials(run)
    assert outcome is not None
    rows = read_trials(run)
    return [found for s in study.strata_list() if (found := confirmation(rows, study, s.name)) is not None], outcome


def _together(first: Outcome, second: Outcome) -> Outcome:
    return replace(second, exit_code=second.exit_code or first.exit_code, seconds=first.seconds + second.seconds)


def _choice_jobs(study: Study, candidates: dict[str, list[dict[str, Any]]], seeds: int) -> Iterable[Job]:
    for stratum in study.strata_list():
        if len(candidates[stratum.name]) < 2:
            continue
        for seed in fresh_seeds(CHOICE_SEEDS, seeds, study.seeds):
            for params in candidates[stratum.name]:
                yield Job(stratum, "confirm", params, seed, study.recipe_for(params, stratum, seed))


def _report_jobs(
    study: Study, rows: Sequence[TrialRow], candidates: dict[str, list[dict[str, Any]]], seeds: int, with_validation: bool
) -> Iterable[Job]:
    for stratum in study.strata_list():
        if not candidates[stratum.name]:
            continue
        chosen = candidates[stratum.name][0]
        if choice_values(rows, stratum.name):
            name = chosen_configuration(rows, stratum.name, study.objective.direction == "maximize")
            known = [row.params for row in rows if row.role == "confirm" and row.stratum == stratum.name and identity(row.params) == name]
            chosen = known[0] if known else chosen
        for seed in fresh_seeds(REPORT_SEEDS, seeds, study.seeds):
            recipe = on_test(study.recipe_for(chosen, stratum, seed))
            yield Job(stratum, "confirm", chosen, seed, recipe)
            if with_validation:
                yield Job(stratum, "final", chosen, seed, on_everything(recipe))
            for baseline in _baselines(study, rows, stratum):
                yield Job(
                    stratum, "baseline", baseline.params, seed, on_test(study.recipe_for_baseline(baseline, stratum, seed)), baseline.name
                )


def _baselines(study: Study, rows: Sequence[TrialRow], stratum: Stratum) -> list[Baseline]:
    """Of each baseline its best configuration in the search's record that keeps the constraints: what may be chosen meets the best of
    what else may be."""
    sign = 1 if study.objective.direction == "maximize" else -1
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        finished = row.role == "baseline" and row.stratum == stratum.name and row.state == "COMPLETE"
        if finished and row.baseline is not None and keeps_constraints(row, study):
            ours = [value for seed, value in row.values.items() if int(seed) < CHOICE_SEEDS]
            values.setdefault((row.baseline, identity(row.params)), []).extend(ours)

    def mean(one: Baseline) -> float:
        found = values.get((one.name, identity(one.params)))
        return sign * math.fsum(found) / len(found) if found else -math.inf

    best: dict[str, Baseline] = {}
    for one in study.baselines_list(stratum):
        if one.name not in best or mean(one) > mean(best[one.name]):
            best[one.name] = one
    return list(best.values())


def on_test(recipe: Recipe) -> Recipe:
    """The same training, measured on test data as well. Children stay as they are, so that they are shared."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"evaluate_on": "test"})})


def on_everything(recipe: Recipe) -> Recipe:
    """The same, with the validation images in the training data; its teachers too have seen only the rest."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"evaluate_on": "test", "validation": 0.0})})
