"""Confirmation: which of the search's best to take, and how good it is, from runs that the search has not seen.

The winner of a noisy search looks better than it is (winner's curse). Two sets of fresh seeds undo that:

- *choice* seeds: the top K of the search are trained on them, and the one with the best mean on **validation** data is taken;
- *report* seeds: the one that was taken, and the baselines, are trained on them; the interval comes from their **test** data.

Why two sets: a network that is good on validation data by luck of its seed is good on test data too. Test data of the choice seeds
would repeat the mistake on a smaller scale: where configurations are close and seeds noisy, their 95% interval covered the truth in
94.1% of 2,000 simulated studies at K=5 and in 90.5% at K=10 (``tests/analysis/test_confirm.py``; 5 seeds, seed SD 0.5, true SD 0.2).
Runs that had no part in the choice cover at the stated rate,
whatever the noise shares. With K = 1 there is no choice, so no choice seeds are needed.

The interval is over seeds, on this test set: that a test set is finite adds to it when other pictures are meant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

CHOICE_SEEDS = 100_000
REPORT_SEEDS = 200_000
"""First fresh seeds. Far above those of studies, and above what ``count: 100`` teachers derive from them (1000 apart)."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean with Student's t interval; ``low`` and ``high`` are NaN for n = 1."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float = CONFIDENCE

    @property
    def half(self) -> float:
        """Half-width."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean ± t·s/√n of independent ``values``, one a seed. Raises ValueError without any."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("no values")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, math.nan, math.nan, 1, confidence)
    half = float(stats.t.ppf((1 + confidence) / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half, array.size, confidence)


def choose(validation: Mapping[str, Sequence[float]], maximize: bool = True) -> str:
    """The configuration with the best mean on validation data of choice seeds; the first of equals, in the order given."""
    means = {name: float(np.mean(values)) for name, values in validation.items()}
    return max(means, key=lambda name: means[name] if maximize else -means[name])


def test_metric(metric: str) -> str:
    """What is reported for an objective: the same quantity on test data; accuracy where it has none there."""
    return {"val_loss": "test_loss", "test_loss": "test_loss"}.get(metric, "test_accuracy")


@dataclass(frozen=True)
class Candidate:
    """One of the search's top K."""

    number: int
    """Trial of the search."""
    params: dict[str, Any]
    search_value: float
    """Mean over the search's seeds, on validation data."""
    validation: float | None
    """Mean over choice seeds, on validation data; of a single candidate over report seeds. None: not run yet."""
    n: int
    chosen: bool

    @property
    def shrinkage(self) -> float | None:
        """How much worse (or better, if negative when maximizing) fresh seeds are on the same validation data: search − confirmed."""
        return None if self.validation is None else self.search_value - self.validation


@dataclass(frozen=True)
class Confirmation:
    """The confirmed choice of one stratum."""

    stratum: str
    metric: str
    """Of the choice, on validation data."""
    reported: str
    """Of the interval, on test data."""
    candidates: list[Candidate]
    """Best by the choice seeds first."""
    seeds: list[int]
    """Report seeds that are finished."""
    keys: dict[str, str]
    """Report seed → recipe key."""
    test: Interval | None
    """On test data of the report seeds."""
    validation: Interval | None
    """On validation data of the report seeds, which the choice did not see."""
    baselines: dict[str, Interval]
    """Baseline → the same metric on the same seeds."""
    differences: dict[str, Interval]
    """Baseline → chosen minus baseline, paired by seed."""
    final: dict[str, float]
    """With ``--with-validation``: seed → test metric of the choice trained on all training data."""
    final_keys: dict[str, str]

    @property
    def chosen(self) -> Candidate:
        """The one that was taken."""
        return next(candidate for candidate in self.candidates if candidate.chosen)

    @property
    def shrinkage(self) -> float | None:
        """Search value minus the mean on the report seeds, both on validation data: what of the search's value was luck."""
        return None if self.validation is None else self.chosen.search_value - self.validation.mean

    def to_json(self) -> dict[str, Any]:
        """Plain data, None in place of NaN."""
        data = asdict(self) | {"shrinkage": self.shrinkage}
        data["candidates"] = [asdict(c) | {"shrinkage": c.shrinkage} for c in self.candidates]
        return dict(_plain(data))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def identity(params: Mapping[str, Any]) -> str:
    """A configuration as text."""
    return json.dumps(dict(params), sort_keys=True, default=str)


def fresh_seeds(first: int, count: int, used: Sequence[int]) -> list[int]:
    """``count`` seeds from ``first`` on that a study does not use."""
    return [seed for seed in range(first, first + count + len(used)) if seed not in set(used)][:count]


def is_report_seed(seed: int) -> bool:
    """Whether a fresh seed is one of those that the interval comes from."""
    return seed >= REPORT_SEEDS


def choice_values(rows: Sequence[TrialRow], stratum: str, role: str = "confirm") -> dict[str, dict[int, float]]:
    """Configuration → choice seed → value on validation data, of the confirmation's rows."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.role == role and row.stratum == stratum and row.state == "COMPLETE":
            fresh = {int(seed): value for seed, value in row.values.items() if CHOICE_SEEDS <= int(seed) < REPORT_SEEDS}
            if fresh:
                found.setdefault(identity(row.params), {}).update(fresh)
    return found


def chosen_configuration(rows: Sequence[TrialRow], stratum: str, maximize: bool) -> str | None:
    """What the choice seeds say, else the single configuration that has report seeds; None where nothing was confirmed.

    Configurations that lack choice seeds which others have do not compete.
    """
    values = choice_values(rows, stratum)
    most = max((len(v) for v in values.values()), default=0)
    whole = {name: [v[seed] for seed in sorted(v)] for name, v in values.items() if len(v) == most}
    if whole:
        return choose(whole, maximize)
    reported = [row for row in rows if row.role == "confirm" and row.stratum == stratum and row.state == "COMPLETE"]
    return identity(reported[0].params) if reported else None


def confirmation(rows: Sequence[TrialRow], study: Study, stratum: str = "") -> Confirmation | None:
    """What the record says of one stratum; None where nothing was confirmed."""
    maximize = study.objective.direction == "maximize"
    chosen = chosen_configuration(rows, stratum, maximize)
    if chosen is None:
        return None
    reported = test_metric(study.objective.metric)
    values = choice_values(rows, stratum)
    validation, test, keys = _reported(rows, stratum, "confirm", chosen, reported)
    base = _baselines(rows, stratum, reported)
    paired = {name: sorted(set(test) & set(by_seed)) for name, by_seed in base.items()}
    final, _, final_keys = _reported(rows, stratum, "final", chosen, reported)
    return Confirmation(
        stratum=stratum,
        metric=study.objective.metric,
        reported=reported,
        candidates=_candidates(rows, stratum, values, chosen, validation, maximize),
        seeds=sorted(test),
        keys=keys,
        test=t_interval(list(test.values())) if test else None,
        validation=t_interval(list(validation.values())) if validation else None,
        baselines={name: t_interval(list(by_seed.values())) for name, by_seed in base.items()},
        differences={name: t_interval([test[s] - base[name][s] for s in seeds]) for name, seeds in paired.items() if seeds},
        final={str(seed): value for seed, value in final.items()},
        final_keys=final_keys,
    )


def _reported(
    rows: Sequence[TrialRow], stratum: str, role: str, configuration: str, metric: str
) -> tuple[dict[int, float], dict[int, float], dict[str, str]]:
    """Of report seeds: value of the objective, value of ``metric``, key."""
    values: dict[int, float] = {}
    measured: dict[int, float] = {}
    keys: dict[str, str] = {}
    for row in rows:
        if row.role == role and row.stratum == stratum and row.state == "COMPLETE" and identity(row.params) == configuration:
            for seed, value in row.values.items():
                if is_report_seed(int(seed)):
                    values[int(seed)] = value
                    keys[seed] = row.keys.get(seed, "")
                    if (found := row.metrics.get(seed, {}).get(metric)) is not None:
                        measured[int(seed)] = float(found)
    return values, measured, keys


def _baselines(rows: Sequence[TrialRow], stratum: str, metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.role == "baseline" and row.stratum == stratum and row.state == "COMPLETE" and row.baseline is not None:
            name = row.baseline + ("" if not row.params else " (" + ", ".join(f"{k}={v}" for k, v in row.params.items()) + ")")
            for seed in row.values:
                if is_report_seed(int(seed)) and (value := row.metrics.get(seed, {}).get(metric)) is not None:
                    found.setdefault(name, {})[int(seed)] = float(value)
    return found


def _candidates(
    rows: Sequence[TrialRow],
    stratum: str,
    values: Mapping[str, Mapping[int, float]],
    chosen: str,
    report: Mapping[int, float],
    maximize: bool,
) -> list[Candidate]:
    searched: dict[str, tuple[int, dict[str, Any], dict[str, float]]] = {}
    for row in rows:
        if row.role == "search" and row.stratum == stratum and row.state == "COMPLETE":
            entry = searched.setdefault(identity(row.params), (row.number, row.params, {}))
            entry[2].update(row.values)
    found = []
    for name in {chosen: 0, **dict.fromkeys(values, 0)}:
        number, params, by_seed = searched.get(name, (-1, json.loads(name), {}))
        fresh = list(values.get(name, {}).values()) or (list(report.values()) if name == chosen else [])
        search_value = float(np.mean(list(by_seed.values()))) if by_seed else math.nan
        validation = float(np.mean(fresh)) if fresh else None
        found.append(Candidate(number, dict(params), search_value, validation, len(fresh), name == chosen))
    return sorted(found, key=lambda c: (-1 if maximize else 1) * (c.validation if c.validation is not None else math.nan))
