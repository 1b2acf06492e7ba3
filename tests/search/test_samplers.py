"""Our faster TPE suggests what Optuna's own does."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution

from kdsearch.search.samplers import make_sampler, sample
from kdsearch.search.tpe import Memory, Tpe, make_tpe
from kdsearch.spec.options import Sampler
from kdsearch.spec.study import Study
from tests.search.conftest import STUDY, make_study
from tests.search.test_ledger import CONDITIONAL


class _Told(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """Asks Optuna's TPE and ours about the same trial, and goes on with ours."""

    def __init__(self, ours: optuna.samplers.BaseSampler, theirs: optuna.samplers.BaseSampler) -> None:
        self.ours, self.theirs, self.compared = ours, theirs, 0

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, BaseDistribution]:
        self._asked = self.theirs.infer_relative_search_space(study, trial)
        return self.ours.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        wanted = self.theirs.sample_relative(study, trial, self._asked)
        found = self.ours.sample_relative(study, trial, search_space)
        assert found == wanted
        self.compared += bool(found)
        return found

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        wanted = self.theirs.sample_independent(study, trial, param_name, param_distribution)
        assert self.ours.sample_independent(study, trial, param_name, param_distribution) == wanted
        return wanted


def _studies(study: Study) -> list[list[str]]:
    return [["minimize"], ["maximize"], ["maximize", "minimize"]] if study.name == "tab" else [["maximize"]]


@pytest.mark.parametrize("text", [STUDY, CONDITIONAL], ids=["plain", "conditional"])
def test_tpe_with_a_memory_suggests_what_optuna_s_own_does(text: str, tmp_path: Path) -> None:
    study = make_study(tmp_path, text)
    stratum = study.strata_list()[0]
    parameters = study.parameters(stratum)
    conditional = any(parameter.parents for parameter in parameters)
    for directions in _studies(study):
        draw, memory, compared = random.Random(0), Memory(), 0
        optuna_study = optuna.create_study(directions=directions)
        open_trials: list[optuna.Trial] = []
        for number in range(70):
            ours = make_sampler(Sampler(name="tpe", multivariate=True), 0, stratum.name, number, parameters, memory)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = optuna.samplers.TPESampler(seed=0, multivariate=True, group=conditional)
            for mine, other in ((ours, theirs), (ours._random_sampler, theirs._random_sampler)):
                other._rng.rng.set_state(mine._rng.rng.get_state())
            optuna_study.sampler = told = _Told(ours, theirs)
            trial = optuna_study.ask()
            sample(trial, parameters)
            compared += told.compared
            open_trials.append(trial)
            while len(open_trials) > 2:  # two run at a time, and end out of order
                ended = open_trials.pop(draw.randrange(len(open_trials)))
                value = round(draw.random(), 1)  # ties
                if len(directions) == 1:
                    for step in range(draw.randrange(4)):
                        ended.report(float("nan") if draw.random() < 0.1 else value, step)
                    if draw.random() < 0.2:
                        ended.set_constraint("size", draw.choice([-1.0, 0.5, 2.0]))
                state = draw.choice([optuna.trial.TrialState.COMPLETE] * 2 + [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL])
                if state == optuna.trial.TrialState.COMPLETE:
                    optuna_study.tell(ended, [value] * len(directions))
                elif len(directions) == 1 or state == optuna.trial.TrialState.FAIL:
                    optuna_study.tell(ended, state=state)
                else:
                    optuna_study.tell(ended, [value] * 2)
        assert compared > 30


def test_another_version_of_optuna_gets_optuna_s_own_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_tpe(Memory(), None, seed=0)) is Tpe
    monkeypatch.setattr(optuna, "__version__", "5.1.0")
    assert type(make_tpe(Memory(), None, seed=0)) is optuna.samplers.TPESampler
