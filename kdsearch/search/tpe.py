"""Optuna's TPE, kept fast after thousands of trials.

It takes the place of two private methods of Optuna's sampler, so it is used with the Optuna that it was held against only
(tests/search/test_samplers.py: the same suggestions); with any other the study gets Optuna's own.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

HELD_AGAINST = ("5.0.",)
"""Beginnings of the versions of Optuna that the methods below are those of."""


@dataclass
class Memory:
    """What a sampler knows of finished trials, which never change. Kept between the trials of a book, it only saves time: a sampler
    with an empty one suggests the same."""

    ranked: list[tuple[float, ...]] = field(default_factory=list)
    """Best first; each ends with the trial's number."""
    known: set[int] = field(default_factory=set)
    rows: dict[tuple[str, ...], dict[int, tuple[float, ...] | None]] = field(default_factory=dict)
    """Parameters → number → their values as Optuna counts; None where the trial lacks one."""


class Tpe(optuna.samplers.TPESampler):
    """Optuna's TPE, the same suggestions in less time: Optuna ranks and converts every past trial anew for each one (0.3 s a trial
    after 10,000, a third of it with a memory)."""

    def __init__(self, memory: Memory, space: Mapping[str, BaseDistribution] | None, **options: Any) -> None:
        """``space``: what every trial has, where no parameter is conditional; else None."""
        super().__init__(**options)
        self._memory, self._space = memory, space

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._space is None or not self._is_multivariate(study):
            found: dict[str, BaseDistribution] = super().infer_relative_search_space(study, trial)
            return found
        return {name: self._space[name] for name in sorted(self._space) if not self._space[name].single()}

    def _sample(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if len(study.directions) > 1:
            found: dict[str, Any] = super()._sample(study, trial, search_space)
            return found
        memory = self._memory
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        numbered = [(one.number, one) for one in trials]
        for number, one in numbered:
            if number not in memory.known and one.state != TrialState.RUNNING:
                memory.known.add(number)
                insort(memory.ranked, _rank(one, sign))
        good = {int(rank[-1]) for rank in memory.ranked[: min(math.ceil(0.1 * len(memory.ranked)), 25)]}
        below = self._build_parzen_estimator(study, search_space, [one for n, one in numbered if n in good], handle_below=True)
        good.add(trial.number)
        above = self._build_parzen_estimator(study, search_space, [one for n, one in numbered if n not in good], handle_below=False)
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, npt.NDArray[Any]]:
        rows = self._memory.rows.setdefault(tuple(search_space), {})
        found = []
        for trial in trials:
            number = trial.number
            if number in rows:
                row = rows[number]
            else:
                params = self._get_params(trial, study)
                has_all = search_space.keys() <= params.keys()
                row = tuple(d.to_internal_repr(params[name]) for name, d in search_space.items()) if has_all else None
                if trial.state != TrialState.RUNNING:
                    rows[number] = row
            if row is not None:
                found.append(row)
        table = np.asarray(found).reshape(len(found), len(search_space))
        return {name: table[:, index] for index, name in enumerate(search_space)}


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, ...]:
    """Optuna's order of finished trials: complete by value, then pruned by how far they came, then those that break constraints."""
    excess = sum(value for value in trial.constraints.values() if value > 0)
    if excess > 0:
        return (2, excess, 0, trial.number)
    if trial.state == TrialState.COMPLETE:
        return (0, sign * trial.value, 0, trial.number)
    if not trial.intermediate_values:
        return (1, 1, 0, trial.number)
    step, value = max(trial.intermediate_values.items())
    return (1, -step, math.inf if math.isnan(value) else sign * value, trial.number)


def make_tpe(memory: Memory, space: Mapping[str, BaseDistribution] | None, **options: Any) -> BaseSampler:
    """TPE for the next trial; ``options`` are those of :class:`optuna.samplers.TPESampler`."""
    if optuna.__version__.startswith(HELD_AGAINST):
        return Tpe(memory, space, **options)
    return optuna.samplers.TPESampler(**options)
