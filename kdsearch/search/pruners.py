"""From a pruner's name in a study to Optuna's pruner. ``PRUNERS`` is the one visible mapping.

A pruner's step is the epoch on the first seed, or, for ``wilcoxon``, the position of a finished seed. Learning rate and
coefficient follow the full budget of epochs, so nothing is pruned in the first third unless the study says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner

from kdsearch.spec.options import Pruner, for_epochs


def _none(options: Pruner) -> BasePruner:
    return optuna.pruners.NopPruner()


def _median(options: Pruner) -> BasePruner:
    return optuna.pruners.MedianPruner(
        n_startup_trials=_or(options.startup_trials, 5), n_warmup_steps=_warmup(options), n_min_trials=options.min_trials or 1
    )


def _percentile(options: Pruner) -> BasePruner:
    return optuna.pruners.PercentilePruner(
        options.percentile or 50.0,
        n_startup_trials=_or(options.startup_trials, 5),
        n_warmup_steps=_warmup(options),
        n_min_trials=options.min_trials or 1,
    )


class _WarmPatient(optuna.pruners.PatientPruner):
    """Optuna's PatientPruner has no warm-up of its own."""

    def __init__(self, warmup: int, patience: int, min_delta: float) -> None:
        super().__init__(None, patience=patience, min_delta=min_delta)
        self._warmup = warmup

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and step >= self._warmup and super().prune(study, trial)


def _patient(options: Pruner) -> BasePruner:
    return _WarmPatient(_warmup(options), _or(options.patience, 3), options.min_delta or 0.0)


def _sha(options: Pruner) -> BasePruner:
    # Whole numbers of epochs: "auto" would be kept in memory and be lost with the driver.
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=options.min_resource or 1,
        reduction_factor=options.reduction_factor or 3,
        min_early_stopping_rate=options.min_early_stopping_rate or 0,
    )


def _hyperband(options: Pruner) -> BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=options.min_resource or 1,
        max_resource=max(options.max_resource or 1, options.min_resource or 1),
        reduction_factor=options.reduction_factor or 3,
    )


def _wilcoxon(options: Pruner) -> BasePruner:
    return optuna.pruners.WilcoxonPruner(p_threshold=options.p_threshold or 0.1, n_startup_steps=options.startup_steps or 2)


PRUNERS: dict[str, Callable[[Pruner], BasePruner]] = {
    "none": _none,
    "median": _median,
    "percentile": _percentile,
    "patient": _patient,
    "sha": _sha,
    "hyperband": _hyperband,
    "wilcoxon": _wilcoxon,
}


def make_pruner(options: Pruner, epochs: int) -> BasePruner:
    """The pruner for trials of ``epochs`` epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PRUNERS[options.name](for_epochs(options, epochs))


def over_seeds(options: Pruner) -> bool:
    """Whether the pruner compares seeds rather than epochs."""
    return options.name == "wilcoxon"


def _warmup(options: Pruner) -> int:
    """Epochs that pass before anything is pruned: the end of the last of them is the first chance."""
    return int(options.warmup or 0)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
