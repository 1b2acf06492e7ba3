"""Optuna's TPE, as fast after thousands of trials as after the first thousand.

It takes the place of private methods of Optuna's sampler, so it is used with the Optuna that it was held against only
(tests/search/test_samplers.py: the same suggestions); with any other the study gets Optuna's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from kdsearch.search.history import History

HELD_AGAINST = ("5.0.",)
"""Beginnings of the versions of Optuna that the methods below are those of."""


class Tpe(optuna.samplers.TPESampler):
    """Optuna's TPE. Optuna goes through every past trial anew for each one and models all of them as good or bad; this asks a history.

    Good are, as in Optuna, the best tenth of the trials, 25 at most. Bad are those that run and the 1,000 newest of the others
    (:data:`kdsearch.search.history.NEWEST`), so the time per trial does not grow; until there are more others than that, the
    suggestions are Optuna's own. With several objectives they always are, and nothing is bounded.
    """

    def __init__(self, history: History, space: Mapping[str, BaseDistribution] | None, **options: Any) -> None:
        """``space``: what every trial has, where no parameter is conditional; else None."""
        super().__init__(**options)
        self._history, self._space = history, space

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution]
        if not self._is_multivariate(study):
            return {}
        if self._space is not None:
            found = dict(sorted(self._space.items()))
        elif len(study.directions) > 1:
            found = super().infer_relative_search_space(study, trial)
        else:  # a trial whose parameters an earlier one had changes no group
            self._search_space_group = groups = self._group_decomposed_search_space._search_space
            for _, distributions in sorted(self._history.spaces.values(), key=lambda space: space[0]):
                groups.add_distributions(distributions)
            found = {name: space[name] for space in groups.search_spaces for name in sorted(space)}
        return {name: distribution for name, distribution in found.items() if not distribution.single()}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        if len(study.directions) > 1 or self._history.total < self._n_startup_trials:
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if len(study.directions) > 1:
            found: dict[str, Any] = super()._sample_relative(study, trial, search_space)
            return found
        if not search_space or self._history.total < self._n_startup_trials:
            return {}
        return self._sample(study, trial, search_space)

    def _sample(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if len(study.directions) > 1:
            found: dict[str, Any] = super()._sample(study, trial, search_space)
            return found
        good, bad = self._history.split()
        others = [(ended.number, ended.values) for ended in bad]
        for number, running in self._history.running.items():
            params = self._get_params(running, study)
            others.append((number, {name: d.to_internal_repr(params[name]) for name, d in search_space.items() if name in params}))
        below = self._model([ended.values for ended in good], search_space)
        above = self._model([values for _, values in sorted(others, key=lambda other: other[0])], search_space)
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}

    def _model(self, trials: Sequence[Mapping[str, float]], search_space: dict[str, BaseDistribution]) -> Any:
        rows = [values for values in trials if search_space.keys() <= values.keys()]
        observations = {name: np.asarray([values[name] for values in rows]) for name in search_space}
        return self._parzen_estimator_cls(observations, search_space, self._parzen_estimator_parameters)


def make_tpe(history: History, space: Mapping[str, BaseDistribution] | None, **options: Any) -> BaseSampler:
    """TPE for the next trial; ``options`` are those of :class:`optuna.samplers.TPESampler`."""
    if optuna.__version__.startswith(HELD_AGAINST):
        return Tpe(history, space, **options)
    return optuna.samplers.TPESampler(**options)
