"""Our faster TPE suggests what Optuna's own does, and our pruner stops what Optuna's does."""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from kdsearch.search.history import History
from kdsearch.search.pruners import make_pruner
from kdsearch.search.samplers import make_sampler, sample
from kdsearch.search.tpe import Tpe, make_tpe
from kdsearch.spec.options import Pruner, Sampler
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
        self.compared += self.ours._history.total >= self.ours._n_startup_trials
        return wanted


def _ends(draw: random.Random, trial: optuna.Trial, objectives: int) -> optuna.trial.FrozenTrial:
    """Ends a trial in some way, with ties."""
    value = round(draw.random(), 1)
    if objectives == 1:
        for step in range(draw.randrange(4)):
            trial.report(float("nan") if draw.random() < 0.1 else value, step)
            if isinstance(trial.study.pruner, optuna.pruners.HyperbandPruner):
                trial.should_prune()  # it has brackets from here on
        if draw.random() < 0.2:
            trial.set_constraint("size", draw.choice([-1.0, 0.5, 2.0]))
    state = draw.choice([TrialState.COMPLETE] * 2 + [TrialState.PRUNED, TrialState.FAIL])
    if state == TrialState.COMPLETE or (state == TrialState.PRUNED and objectives > 1):
        return trial.study.tell(trial, [value] * objectives)
    return trial.study.tell(trial, state=state)


@pytest.mark.parametrize("case", ["minimize", "maximize", "independent", "hyperband", "two objectives"])
@pytest.mark.parametrize("text", [STUDY, CONDITIONAL], ids=["plain", "conditional"])
def test_tpe_with_a_history_suggests_what_optuna_s_own_does(text: str, case: str, tmp_path: Path) -> None:
    study = make_study(tmp_path, text)
    stratum = study.strata_list()[0]
    parameters = study.parameters(stratum)
    joint = case != "independent"
    conditional = any(parameter.parents for parameter in parameters)
    directions = ["maximize", "minimize"] if case == "two objectives" else ["minimize" if case == "minimize" else "maximize"]
    pruner = optuna.pruners.HyperbandPruner(max_resource=4) if case == "hyperband" else None
    draw, history, compared = random.Random(0), History(directions[0] == "maximize"), 0
    optuna_study = optuna.create_study(study_name="same", directions=directions, pruner=pruner)
    open_trials: list[optuna.Trial] = []
    for number in range(70):
        ours = make_sampler(Sampler(name="tpe", multivariate=joint), 0, stratum.name, number, parameters, history)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = optuna.samplers.TPESampler(seed=0, multivariate=joint, group=joint and conditional)
        for mine, other in ((ours, theirs), (ours._random_sampler, theirs._random_sampler)):
            other._rng.rng.set_state(mine._rng.rng.get_state())
        optuna_study.sampler = told = _Told(ours, theirs)
        trial = optuna_study.ask()
        sample(trial, parameters)
        history.begin(optuna_study.get_trials(deepcopy=False)[-1])
        compared += told.compared
        open_trials.append(trial)
        while len(open_trials) > 2:  # two run at a time, and end out of order
            history.end(_ends(draw, open_trials.pop(draw.randrange(len(open_trials))), len(directions)))
    assert compared > 30


def _from_optuna(
    seed: int, good: int, direction: str, trials: list[optuna.trial.FrozenTrial], space: dict[str, BaseDistribution]
) -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, gamma=lambda _: good)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials(trials)
    found: dict[str, object] = study.ask(space).params
    return found


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_tpe_models_the_best_trials_and_the_newest_others(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdsearch.search.history.BEST", 4)
    monkeypatch.setattr("kdsearch.search.history.NEWEST", 15)
    x, y = optuna.distributions.FloatDistribution(0, 1), optuna.distributions.IntDistribution(1, 9)
    draw, history, sign = random.Random(0), History(direction == "maximize"), 1 if direction == "minimize" else -1
    study, others = optuna.create_study(direction=direction), 0
    for number in range(100):
        ours = make_tpe(history, {"x": x, "y": y}, seed=number, multivariate=True)
        ended = study.get_trials(states=(TrialState.COMPLETE,))
        below = sorted(ended, key=lambda trial: (sign * trial.value, trial.number))[: min(4, math.ceil(0.1 * len(ended)))]
        kept = {trial.number for trial in below}
        kept |= {trial.number for trial in [trial for trial in ended if trial.number not in kept][-15:]}
        study.sampler = ours
        trial = study.ask({"x": x, "y": y})
        found = [
            _from_optuna(number, len(below), direction, trials, trial.distributions)
            for trials in ([one for one in ended if one.number in kept], ended)
        ]
        assert trial.params == found[0]
        others += trial.params != found[1]
        history.end(study.tell(trial, round(abs(trial.params["x"] - 0.3) + draw.random() / 2, 1)))
    assert others > 50


def test_a_history_made_from_the_record_is_the_one_that_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdsearch.search.history.NEWEST", 15)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draw, kept, anew = random.Random(0), History(False), History(False)
    open_trials: list[optuna.Trial] = []
    for _ in range(150):
        open_trials.append(trial := study.ask())
        trial.suggest_float("x", 0, 1)
        trial.suggest_float(draw.choice("yz"), 0, 1)
        kept.begin(study.get_trials(deepcopy=False)[-1])
        while len(open_trials) > 9:
            kept.end(_ends(draw, open_trials.pop(draw.randrange(len(open_trials))), 1))
    for trial in study.get_trials():
        (anew.begin if trial.state == TrialState.RUNNING else anew.end)(trial)
    assert kept.running.keys() == anew.running.keys()
    assert len(kept.newest) == 15 + 25
    assert len(kept.spaces) == 2
    assert (kept.total, kept.complete, kept.best, kept.newest, kept.spaces) == (
        anew.total,
        anew.complete,
        anew.best,
        anew.newest,
        anew.spaces,
    )
    reported = [{step: sorted(map(str, values)) for step, values in one.reported.items()} for one in (kept, anew)]
    assert reported[0] == reported[1]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (Pruner(name="median", warmup=1), optuna.pruners.MedianPruner(n_warmup_steps=1)),
        (
            Pruner(name="percentile", warmup=0, percentile=30, startup_trials=0, min_trials=7),
            optuna.pruners.PercentilePruner(30, n_startup_trials=0, n_min_trials=7),
        ),
    ],
    ids=["median", "percentile"],
)
def test_a_pruner_with_a_history_decides_as_optuna_s_own(options: Pruner, theirs: optuna.pruners.BasePruner, direction: str) -> None:
    draw, history, decided = random.Random(0), History(direction == "maximize"), Counter[bool]()
    ours = make_pruner(options, 5, history)
    study = optuna.create_study(direction=direction)
    for _ in range(120):
        trial, level = study.ask(), draw.random()
        state = TrialState.COMPLETE
        for step in range(draw.randrange(1, 6)):
            trial.report(float("nan") if draw.random() < 0.1 else level + round(draw.random(), 1), step)
            frozen = study.get_trials(deepcopy=False)[-1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # only NaN so far
                found = ours.prune(study, frozen)
                assert found == theirs.prune(study, frozen)
            decided[found] += 1
            if found and draw.random() < 0.5:
                state = TrialState.PRUNED
                break
        history.end(study.tell(trial, level if state == TrialState.COMPLETE else None, state=state))
    assert min(decided[True], decided[False]) > 30


def test_another_version_of_optuna_gets_optuna_s_own_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_tpe(History(True), None, seed=0)) is Tpe
    monkeypatch.setattr(optuna, "__version__", "5.1.0")
    assert type(make_tpe(History(True), None, seed=0)) is optuna.samplers.TPESampler
