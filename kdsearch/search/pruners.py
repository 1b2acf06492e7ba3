"""From a pruner's name in a study to Optuna's pruner. ``PRUNERS`` is the one visible mapping.

A pruner's step is the epoch on the first seed, or, for ``wilcoxon``, the position of a finished seed. Learning rate and
coefficient follow the full budget of epochs, so nothing is pruned in the first third unless the study says otherwise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.pruners import BasePruner

from kdsearch.search.history import History
from kdsearch.spec.options import Pruner, for_epochs


def _none(options: Pruner, history: History) -> BasePruner:
    return optuna.pruners.NopPruner()


class Percentile(BasePruner):
    """Optuna's percentile pruner, the same decisions; Optuna lists every finished trial at each epoch, and this asks the history."""

    def __init__(self, history: History, percentile: float, startup: int, warmup: int, least: int) -> None:
        self._history, self._percentile = history, percentile
        self._startup, self._warmup, self._least = startup, warmup, least

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the best value so far is worse than the percentile of the complete trials' values at this step."""
        step, history = trial.last_step, self._history
        if step is None or step < self._warmup or history.complete < max(self._startup, 1):
            return False
        own = np.asarray(list(trial.intermediate_values.values()))
        best = float(np.nanmax(own) if history.maximize else np.nanmin(own))
        values = history.reported.get(step, ())
        if math.isnan(best) or len(values) < self._least:
            return math.isnan(best)
        bar = float(np.nanpercentile(np.asarray(values), 100 - self._percentile if history.maximize else self._percentile))
        return best < bar if history.maximize else best > bar


def _percentile(options: Pruner, history: History) -> BasePruner:
    return Percentile(history, options.percentile or 50.0, _or(options.startup_trials, 5), _warmup(options), options.min_trials or 1)


class _WarmPatient(optuna.pruners.PatientPruner):
    """Optuna's PatientPruner has no warm-up of its own."""

    def __init__(self, warmup: int, patience: int, min_delta: float) -> None:
        super().__init__(None, patience=patience, min_delta=min_delta)
        self._warmup = warmup

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and step >= self._warmup and super().prune(study, trial)


def _patient(options: Pruner, history: History) -> BasePruner:
    return _WarmPatient(_warmup(options), _or(options.patience, 3), options.min_delta or 0.0)


def _sha(options: Pruner, history: History) -> BasePruner:
    # Whole numbers of epochs: "auto" would be kept in memory and be lost with the driver.
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=options.min_resource or 1,
        reduction_factor=options.reduction_factor or 3,
        min_early_stopping_rate=options.min_early_stopping_rate or 0,
    )


def _hyperband(options: Pruner, history: History) -> BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=options.min_resource or 1,
        max_resource=max(options.max_resource or 1, options.min_resource or 1),
        reduction_factor=options.reduction_factor or 3,
    )


def _wilcoxon(options: Pruner, history: History) -> BasePruner:
    return optuna.pruners.WilcoxonPruner(p_threshold=options.p_threshold or 0.1, n_startup_steps=options.startup_steps or 2)


PRUNERS: dict[str, Callable[[Pruner, History], BasePruner]] = {
    "none": _none,
    "median": _percentile,
    "percentile": _percentile,
    "patient": _patient,
    "sha": _sha,
    "hyperband": _hyperband,
    "wilcoxon": _wilcoxon,
}


def make_pruner(options: Pruner, epochs: int, history: History) -> BasePruner:
    """The pruner for trials of ``epochs`` epochs; ``history`` is that of its trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PRUNERS[options.name](for_epochs(options, epochs), history)


def over_seeds(options: Pruner) -> bool:
    """Whether the pruner compares seeds rather than epochs."""
    return options.name == "wilcoxon"


def _warmup(options: Pruner) -> int:
    """Epochs that pass before anything is pruned: the end of the last of them is the first chance."""
    return int(options.warmup or 0)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
