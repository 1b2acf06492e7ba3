"""A book: one Optuna study of a run, the search of a stratum or all baselines, with its counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdsearch.record.run import Run
from kdsearch.record.trials import INTERRUPTED, LATE, SEED, baselines_study, confirm_study, stratum_study
from kdsearch.search.history import History
from kdsearch.search.pruners import make_pruner
from kdsearch.search.samplers import make_sampler, sample
from kdsearch.search.tpe import Tpe
from kdsearch.spec.space import Parameter
from kdsearch.spec.study import Stratum, Study

SHARED = {"baseline": baselines_study, "confirm": confirm_study}
"""Role → name of the Optuna study that holds its trials of every stratum."""


@dataclass
class Counts:
    """How far a book is. ``interrupted`` trials were cut off and are run again, so they count for nothing else."""

    planned: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    interrupted: int = 0
    best: float | None = None
    """Best final value of the first objective."""

    @property
    def done(self) -> int:
        """Trials that ended, one way or another."""
        return self.complete + self.pruned + self.failed


def identity(params: Mapping[str, Any]) -> str:
    """A configuration as text."""
    return json.dumps(dict(params), sort_keys=True)


class Book:
    """One Optuna study. Trials that a dead driver left running are closed when it is opened, and asked again first."""

    def __init__(self, study: Study, run: Run, stratum: Stratum | None, planned: int, *, role: str = "baseline") -> None:
        """``stratum``: None for the book of baselines, and for that of confirmations (``role="confirm"``)."""
        self.study, self.stratum = study, stratum
        self.name = stratum_study(study.name, stratum.name) if stratum else SHARED[role](study.name)
        self.label = stratum.name or study.name if stratum else {"baseline": "baselines"}.get(role, role)
        self.parameters: list[Parameter] = [] if stratum is None else study.parameters(stratum)
        self.maximize = study.objective.direction == "maximize"
        self.storage = run.storage
        self.history = History(self.maximize)
        self.optuna = run.study(
            self.name,
            [objective.direction for objective in study.objectives()],
            sampler=optuna.samplers.RandomSampler(seed=study.search_seed),
            pruner=optuna.pruners.NopPruner() if stratum is None else make_pruner(study.pruner, epochs_of(study), self.history),
        )
        about = {"role": role} if stratum is None else {"role": "search", "stratum": stratum.name}
        if self.optuna.user_attrs.get("kdsearch") != about:
            self.optuna.set_user_attr("kdsearch", about)
        self._id = self.storage.get_study_id_from_name(self.name)
        self.counts = Counts(planned)
        self.first: dict[str, int] = {}
        """Configuration → number of the first trial that finished it."""
        self.total = 0
        self._waiting = 0
        """Trials in the queue."""
        self._open()

    def _open(self) -> None:
        trials = self.optuna.get_trials(deepcopy=False)
        self.total = len(trials)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.counts.running += 1
                self.interrupt(trial.number, trial._trial_id)
            elif trial.state == TrialState.WAITING:
                self._waiting += 1
            else:
                self.history.end(trial)
                self._count(trial.state, trial.user_attrs.get("reason"), trial.values[0] if trial.values else None)
                self.remember(trial.number, trial.state, trial.user_attrs.get("params", {}))
        if not self.study.is_grid and self.stratum is not None and self.study.sampler.name == "qmc":
            self.optuna.sampler = self._sampler()

    def _sampler(self) -> optuna.samplers.BaseSampler:
        assert self.stratum is not None
        return make_sampler(self.study.sampler, self.study.search_seed, self.stratum.name, self.total, self.parameters, self.history)

    # Asking

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """The next configuration: one that was interrupted, else the sampler's; with its labels."""
        assert self.stratum is not None
        if self.study.sampler.name != "qmc":
            self.optuna.sampler = self._sampler()
        if self._waiting or not isinstance(self.optuna.sampler, Tpe):
            trial = self.optuna.ask()
            self._waiting = max(self._waiting - 1, 0)
        else:  # the same, without a look through all trials for one that waits
            trial = optuna.Trial(self.optuna, self.optuna._storage.create_new_trial(self._id))
        self.total = max(self.total, trial.number + 1)
        self.counts.running += 1
        params = self.study.check_params(sample(trial, self.parameters), self.stratum)
        trial.set_user_attr("params", params)
        self.history.begin(self.storage.get_trial(trial._trial_id))
        return trial, params

    def begin(self, values: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], attrs: Mapping[str, Any]) -> optuna.Trial:
        """Start a trial whose configuration is given rather than sampled; it appears in the record whole, in one step."""
        template = create_trial(state=TrialState.RUNNING, params=dict(values), distributions=dict(distributions), user_attrs=dict(attrs))
        trial = optuna.Trial(self.optuna, self.storage.create_new_trial(self._id, template_trial=template))
        self.total += 1
        self.counts.running += 1
        return trial

    # Telling

    def complete(self, trial: optuna.Trial, values: list[float], params: Mapping[str, Any]) -> None:
        """End a trial with its values, one per objective."""
        self._end(self.optuna.tell(trial, values))
        self._count(TrialState.COMPLETE, None, values[0])
        self.remember(trial.number, TrialState.COMPLETE, params)

    def prune(self, trial: optuna.Trial) -> None:
        """End a trial that the pruner stopped."""
        self._end(self.optuna.tell(trial, state=TrialState.PRUNED))
        self._count(TrialState.PRUNED, None, None)

    def fail(self, trial: optuna.Trial, reason: str, trace: str | None = None) -> None:
        """End a trial that cannot go on."""
        trial.set_user_attr("reason", reason)
        if trace:
            trial.set_user_attr("trace", trace)
        self._end(self.optuna.tell(trial, state=TrialState.FAIL))
        self._count(TrialState.FAIL, reason, None)

    def interrupt(self, number: int, trial_id: int) -> None:
        """Close a trial that was cut off and put its configuration first in the queue; it counts for nothing."""
        found = self.storage.get_trial(trial_id)
        self.storage.set_trial_user_attr(trial_id, "reason", INTERRUPTED)
        self._end(self.optuna.tell(number, state=TrialState.FAIL))
        self.counts.interrupted += 1
        if self.stratum is not None and not self.study.is_grid and found.params:
            kept = {name: found.user_attrs[name] for name in ("params",) if name in found.user_attrs}
            self.optuna.enqueue_trial(found.params, user_attrs={**kept, "again": number})
            self.total += 1
            self._waiting += 1

    def _end(self, trial: FrozenTrial) -> None:
        self.counts.running -= 1
        self.history.end(trial)

    # Looking

    def finished(self) -> Iterator[FrozenTrial]:
        """Trials that ended and were not interrupted."""
        for trial in self.optuna.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.user_attrs.get("reason") != INTERRUPTED:
                yield trial

    def missing_seeds(self) -> Iterator[tuple[int, dict[str, Any], list[int]]]:
        """(number, labels, seeds) of finished configurations that lack seeds appended to the study since."""
        late = self.optuna.user_attrs
        for trial in self.finished():
            if trial.state == TrialState.COMPLETE:
                known = {seed for seed in self.study.seeds if f"{SEED}{seed}" in trial.user_attrs}
                known |= {seed for seed in self.study.seeds if LATE.format(number=trial.number, seed=seed) in late}
                if lacking := [seed for seed in self.study.seeds if seed not in known]:
                    yield trial.number, dict(trial.user_attrs["params"]), lacking

    def keep_late(self, number: int, seed: int, record: Mapping[str, Any]) -> None:
        """Record what an appended seed gave a finished trial, or why it failed."""
        seeds = self.optuna.user_attrs.get("late seeds", [])
        if seed not in seeds:
            self.optuna.set_user_attr("late seeds", [*seeds, seed])
        self.optuna.set_user_attr(LATE.format(number=number, seed=seed), dict(record))

    def remember(self, number: int, state: TrialState, params: Mapping[str, Any]) -> None:
        """Note who finished a configuration first."""
        if state == TrialState.COMPLETE and self.stratum is not None and not self.study.is_grid:
            self.first.setdefault(identity(params), number)

    def _count(self, state: TrialState, reason: str | None, value: float | None) -> None:
        counts = self.counts
        if state == TrialState.COMPLETE:
            counts.complete += 1
            if value is not None and (counts.best is None or (value > counts.best) == self.maximize):
                counts.best = value
        elif state == TrialState.PRUNED:
            counts.pruned += 1
        elif reason == INTERRUPTED:
            counts.interrupted += 1
        else:
            counts.failed += 1


def epochs_of(study: Study) -> int:
    """Epochs of a trial; where they are searched, the most."""
    written = study.recipe.get("optim", {}).get("epochs", 30)
    if isinstance(written, str):
        return max(int(value) for value in study.space[written.removeprefix("$")].corners())
    return int(written)
