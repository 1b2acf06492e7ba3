"""From a sampler's name in a study to Optuna's sampler, and from a study's parameters to Optuna's and back.

``SAMPLERS`` is the one visible mapping. ``grid`` has no sampler: the ledger goes through the cells itself.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from kdsearch.search.history import History
from kdsearch.search.tpe import make_tpe
from kdsearch.spec.options import Sampler
from kdsearch.spec.space import Parameter
from kdsearch.spec.study import Study


def _tpe(options: Sampler, seed: int, parameters: Sequence[Parameter], history: History) -> BaseSampler:
    # A conditional parameter needs groups: a joint model of parameters that exist together. Running trials are counted as bad
    # (constant_liar, the default of Optuna 5), so that workers do not all try the same place.
    conditional = any(parameter.parents for parameter in parameters)
    multivariate = bool(options.multivariate)
    return make_tpe(
        history,
        None if conditional else {parameter.name: distribution(parameter) for parameter in parameters},
        n_startup_trials=options.startup_trials or 10,
        multivariate=multivariate,
        group=multivariate and conditional,
        seed=seed,
    )


def _gp(options: Sampler, seed: int, parameters: Sequence[Parameter], history: History) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=options.startup_trials or 10)


def _random(options: Sampler, seed: int, parameters: Sequence[Parameter], history: History) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _qmc(options: Sampler, seed: int, parameters: Sequence[Parameter], history: History) -> BaseSampler:
    return optuna.samplers.QMCSampler(
        qmc_type=options.sequence or "sobol",
        scramble=options.scramble is not False,
        seed=seed,
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


@dataclass(frozen=True)
class SamplerRow:
    """How one sampler is made."""

    build: Callable[[Sampler, int, Sequence[Parameter], History], BaseSampler]
    each_trial: bool
    """Whether it is made anew for each trial with a seed of its own, which makes a resumed search go on as if never stopped.
    A quasi-random sequence needs one seed throughout."""


SAMPLERS: dict[str, SamplerRow] = {
    "tpe": SamplerRow(_tpe, each_trial=True),
    "gp": SamplerRow(_gp, each_trial=True),
    "random": SamplerRow(_random, each_trial=True),
    "qmc": SamplerRow(_qmc, each_trial=False),
    "grid": SamplerRow(_random, each_trial=False),
}


def make_sampler(
    options: Sampler, search_seed: int, stratum: str, trials: int, parameters: Sequence[Parameter], history: History
) -> BaseSampler:
    """The sampler for the next trial of a stratum that holds ``trials`` trials; ``history`` is the stratum's."""
    row = SAMPLERS[options.name]
    text = f"{search_seed} {stratum}" + (f" {trials}" if row.each_trial else "")
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return row.build(options, seed, parameters, history)


def adaptive(study: Study) -> bool:
    """Whether a study's sampler learns, or its pruner compares."""
    return study.sampler.name in ("tpe", "gp") or study.pruner.name != "none"


def distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's side of a parameter. Ordered choices are their index, so that the sampler knows the order."""
    if parameter.kind == "categorical":
        if parameter.ordered:
            return IntDistribution(0, len(parameter.choices) - 1)
        return CategoricalDistribution(tuple(parameter.choices))
    assert parameter.low is not None and parameter.high is not None
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log, step=parameter.step)


def to_label(parameter: Parameter, value: Any) -> Any:
    """What the user sees for a value of Optuna's."""
    return parameter.choices[value] if parameter.kind == "categorical" and parameter.ordered else value


def to_optuna(parameters: Sequence[Parameter], params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Values and distributions of a configuration, for a trial that is not sampled."""
    values: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for parameter in parameters:
        if parameter.name in params:
            label = params[parameter.name]
            ordered = parameter.kind == "categorical" and parameter.ordered
            values[parameter.name] = list(parameter.choices).index(label) if ordered else label
            distributions[parameter.name] = distribution(parameter)
    return values, distributions


def sample(trial: optuna.Trial, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Labels of every parameter that exists in this trial; those that others depend on come first."""
    params: dict[str, Any] = {}
    for parameter in parameters:
        if not parameter.active(params):
            continue
        space = distribution(parameter)
        if isinstance(space, CategoricalDistribution):
            value: Any = trial.suggest_categorical(parameter.name, space.choices)
        elif isinstance(space, IntDistribution):
            value = trial.suggest_int(parameter.name, space.low, space.high, log=space.log, step=space.step)
        else:
            assert isinstance(space, FloatDistribution)
            value = trial.suggest_float(parameter.name, space.low, space.high, log=space.log, step=space.step)
        params[parameter.name] = to_label(parameter, value)
    return params
