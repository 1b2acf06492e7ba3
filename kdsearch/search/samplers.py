"""From a sampler's name in a study to Optuna's sampler, and from a study's parameters to Optuna's and back.

``SAMPLERS`` is the one visible mapping. ``grid`` has no sampler: the ledger goes through the cells itself.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial, TrialState

from kdsearch.spec.options import Sampler
from kdsearch.spec.space import Parameter


@dataclass
class Memory:
    """What a sampler knows of finished trials, which never change. Kept between the trials of a book, it only saves time: a sampler
    with an empty one suggests the same."""

    ranked: list[tuple[float, ...]] = field(default_factory=list)
    """Best first; each ends with the trial's number."""
    known: set[int] = field(default_factory=set)
    rows: dict[tuple[str, ...], dict[int, tuple[float, ...] | None]] = field(default_factory=dict)
    """Parameters → number → their values as Optuna counts; None where the trial lacks one."""


class _Tpe(optuna.samplers.TPESampler):  # type: ignore[misc]
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
        good = {int(rank[-1]) for rank in memory.ranked[: default_gamma(len(memory.ranked))]}
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


def _tpe(options: Sampler, seed: int, parameters: Sequence[Parameter], memory: Memory) -> BaseSampler:
    # A conditional parameter needs groups: a joint model of parameters that exist together. Running trials are counted as bad
    # (constant_liar, the default of Optuna 5), so that workers do not all try the same place.
    conditional = any(parameter.parents for parameter in parameters)
    multivariate = bool(options.multivariate)
    return _Tpe(
        memory,
        None if conditional else {parameter.name: distribution(parameter) for parameter in parameters},
        n_startup_trials=options.startup_trials or 10,
        multivariate=multivariate,
        group=multivariate and conditional,
        seed=seed,
    )


def _gp(options: Sampler, seed: int, parameters: Sequence[Parameter], memory: Memory) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=options.startup_trials or 10)


def _random(options: Sampler, seed: int, parameters: Sequence[Parameter], memory: Memory) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _qmc(options: Sampler, seed: int, parameters: Sequence[Parameter], memory: Memory) -> BaseSampler:
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

    build: Callable[[Sampler, int, Sequence[Parameter], Memory], BaseSampler]
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
    options: Sampler, search_seed: int, stratum: str, trials: int, parameters: Sequence[Parameter], memory: Memory
) -> BaseSampler:
    """The sampler for the next trial of a stratum that holds ``trials`` trials; ``memory`` is the stratum's."""
    row = SAMPLERS[options.name]
    text = f"{search_seed} {stratum}" + (f" {trials}" if row.each_trial else "")
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return row.build(options, seed, parameters, memory)


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
