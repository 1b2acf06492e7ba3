"""Every trial of a run as plain rows: what ``status``, ``trials``, the report and the analysis read. Loads neither torch nor ray."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdsearch.record.run import BASELINES, Run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SEED = "seed "
"""Trial attribute ``seed 0``: what seed 0 ended with: ``value``, ``key``, ``metrics``, ``warnings``."""
LATE = "trial {number} seed {seed}"
"""Study attribute of the same for a seed that was appended after its trial had finished (finished trials cannot be changed)."""
INTERRUPTED = "interrupted"
"""Reason of a trial that was cut off; it is run again under another number and is not a failed one."""


@dataclass
class TrialRow:
    """One trial."""

    number: int
    study: str
    """Name of the Optuna study that holds it."""
    stratum: str
    role: str
    """``search``, ``baseline`` or ``confirm``."""
    baseline: str | None
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING."""
    value: float | None
    """Mean over finished seeds of the first objective at the last epoch; of a pruned trial its last epoch's."""
    params: dict[str, Any]
    seeds: list[int] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    """Epochs that the first seed reported."""
    intermediate: list[list[float]] = field(default_factory=list)
    """``[epoch, value]`` of the first seed."""
    key: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    seconds: float | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_trials(run: Run) -> list[TrialRow]:
    """Rows of the run's trials: the search of each stratum, then baselines and confirmations, each by number.

    Raises:
        StoreError: the record is damaged or cannot be reached.
    """
    storage = run.read_storage()
    name = _study_name(run)
    rows: list[TrialRow] = []
    for study in storage.get_all_studies():
        if study.study_name != name and not study.study_name.startswith(f"{name} | "):
            continue
        about = study.user_attrs.get("kdsearch", {})
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        rows += [_row(study.study_name, about, study.user_attrs, trial) for trial in trials]
    return sorted(rows, key=lambda row: (row.role != "search", row.study, row.number))


def baselines_study(name: str) -> str:
    """Name of the Optuna study of every baseline of the study ``name``."""
    return f"{name} | {BASELINES}"


def confirm_study(name: str) -> str:
    """Name of the Optuna study of every confirmation of the study ``name``."""
    return f"{name} | confirm"


def stratum_study(name: str, stratum: str) -> str:
    """Name of the Optuna study of a stratum of the study ``name``."""
    return f"{name} | {stratum}" if stratum else name


def _study_name(run: Run) -> str:
    """The study's name without loading the whole study: its first line of YAML that names it."""
    from kdsearch.spec.yaml_reader import read_yaml

    found = read_yaml(run.study_yaml).data
    return str(found["name"]) if isinstance(found, dict) and "name" in found else run.path.name


def _row(study: str, about: Mapping[str, Any], shared: Mapping[str, Any], trial: FrozenTrial) -> TrialRow:
    attrs = trial.user_attrs
    records: dict[str, Mapping[str, Any]] = {name[len(SEED) :]: value for name, value in attrs.items() if name.startswith(SEED)}
    for seed in shared.get("late seeds", ()):
        late = shared.get(LATE.format(number=trial.number, seed=seed))
        if late is not None and "value" in late:
            records[str(seed)] = late
    order = sorted(records, key=int)
    row = TrialRow(
        number=trial.number,
        study=study,
        stratum=str(attrs.get("stratum", about.get("stratum", ""))),
        role=str(attrs.get("role", about.get("role", "search"))),
        baseline=attrs.get("baseline"),
        state=trial.state.name,
        value=None,
        params=dict(attrs.get("params", {})),
        seeds=[int(seed) for seed in order],
        values={seed: records[seed]["value"] for seed in order},
        key=attrs.get("key"),
        keys={seed: records[seed]["key"] for seed in order},
        reason=attrs.get("reason"),
        metrics={seed: dict(records[seed].get("metrics", {})) for seed in order},
        warnings=[*attrs.get("warnings", ()), *_unique(text for seed in order for text in records[seed].get("warnings", ()))],
    )
    curve = attrs.get("curve")  # where intermediate values are seeds, or there are two objectives
    row.intermediate = [[int(e), v] for e, v in (json.loads(curve) if curve else sorted(trial.intermediate_values.items()))]
    row.epochs = len(row.intermediate)
    row.seconds = sum(float(records[seed].get("metrics", {}).get("train_seconds", 0.0)) for seed in order) if order else None
    if row.state == "COMPLETE" and row.values:
        row.value = math.fsum(row.values.values()) / len(row.values)
    elif row.state == "PRUNED" and row.intermediate:
        row.value = row.intermediate[-1][1]
    return row


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
