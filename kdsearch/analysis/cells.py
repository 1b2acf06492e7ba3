"""Cells: every combination of two parameters with its mean, interval, counts and difference to the baseline.

A grid's cell is measured in seeds: values of the same seed are averaged over the parameters that are not shown, and n counts seeds.
In an adaptive study a cell holds whatever the sampler chose to try there: n counts configurations, and the table is exploration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdsearch.analysis.confirm import CHOICE_SEEDS
from kdsearch.analysis.frame import StudyFrame, label_text
from kdsearch.analysis.levels import Levels, levels_of
from kdsearch.analysis.noise import NO_NOISE, Pooled, pooled, pooled_by_seed, replicates, told_apart_from_best

FEW = 3
"""Fewer values than this in a cell are marked: their own spread says nothing."""


LEAST_DF = 3
"""Degrees of freedom below which the spread between configurations gives no interval: it would be as wide as the axis."""


@dataclass(frozen=True)
class BaselineValues:
    """The baseline that differences are taken to: its name and its final value by seed."""

    name: str
    by_seed: Mapping[float, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else math.nan

    def noise(self) -> Pooled:
        """Noise of the baseline's own seeds."""
        return pooled([np.array(list(self.by_seed.values()))])


@dataclass(frozen=True)
class Cells:
    """The cells of two parameters.

    ``table`` has one row per combination, tried or not: ``x, y`` (texts), ``xi, yi`` (indices), ``n``, ``seeds``, ``runs``,
    ``configs``, ``mean, sd, half, low, high``, ``pruned, failed, running`` (trials), ``diff, diff_half, diff_low, diff_high, paired``
    (to the baseline; ``paired`` counts shared seeds, 0 where the difference is of plain means), ``status`` (measured, few, pruned,
    failed, running, not run), ``best`` and ``tied`` (not told apart from the best). ``noise`` and ``diff_noise`` are the pooled
    noise of values and differences; ``unit`` is what n counts: ``seed`` or ``configuration``.
    """

    x: Levels
    y: Levels
    table: pd.DataFrame
    noise: Pooled
    diff_noise: Pooled
    baseline: BaselineValues | None
    unit: str
    exploration: bool
    fixed: Mapping[str, str]
    averaged: tuple[str, ...]
    values: Mapping[tuple[int, int], Mapping[float, float]]

    def matrix(self, column: str) -> np.ndarray:
        """A column of the table as an array of shape (levels of y, levels of x)."""
        out = np.full((len(self.y.labels), len(self.x.labels)), math.nan)
        out[self.table["yi"], self.table["xi"]] = self.table[column].to_numpy(dtype=float)
        return out


def baselines(frame: StudyFrame) -> dict[str, BaselineValues]:
    """Final values by seed of each baseline; where one was tuned, of its best configuration (which favours the baseline).

    Seeds that only a confirmation used are left out: the search never saw them.
    """
    rows = frame.table[(frame.table["role"] == "baseline") & frame.table["finished"] & (frame.table["seed"] < CHOICE_SEEDS)]
    found = {}
    for name, group in rows.groupby("baseline", sort=False):
        means = group.groupby("config")["value"].mean()
        best = means.idxmax() if frame.maximize else means.idxmin()
        by_seed = group[group["config"] == best].groupby("seed")["value"].mean()
        found[str(name)] = BaselineValues(
            str(name), dict(zip(by_seed.index.to_numpy(float).tolist(), by_seed.to_numpy(float).tolist(), strict=True))
        )
    return found


def main_baseline(frame: StudyFrame) -> BaselineValues | None:
    """The baseline without distillation (``no_kd``) where there is one, else the first."""
    found = baselines(frame)
    names = sorted(found, key=lambda name: name.lower().replace("-", "_") not in ("no_kd", "nokd", "hard_labels"))
    return found[names[0]] if names else None


def cells(frame: StudyFrame, x: str, y: str, fixed: Mapping[str, object] | None = None) -> Cells:
    """The cells of parameters ``x`` and ``y``; ``fixed`` keeps other parameters at a label, all others are averaged."""
    fixed_text = {name: label_text(value) for name, value in (fixed or {}).items()}
    rows = frame.search
    for name, label in fixed_text.items():
        levels = levels_of(frame, name)
        rows = rows[levels.index(rows) == (levels.labels.index(label) if label in levels.labels else -2)]
    xs, ys = levels_of(frame, x), levels_of(frame, y)
    xi, yi = xs.index(rows), ys.index(rows)
    rows = rows.assign(xi=xi, yi=yi)
    rows = rows[(rows["xi"] >= 0) & (rows["yi"] >= 0)]
    unit = "seed" if frame.grid else "configuration"
    values = _values(rows, unit)
    baseline = main_baseline(frame)
    noise = _noise(values, unit)
    diffs, diff_noise = _differences(rows, values, baseline, unit, noise)
    counts = _counts(rows)
    best = dict.fromkeys(values, math.nan)
    data = replicates({f"{a},{b}": by for (a, b), by in values.items()})
    if len(data.means):
        apart = told_apart_from_best(data, frame.maximize)
        top = data.names[int(np.argmax(data.means if frame.maximize else -data.means))]
        best = {place: 1.0 if f"{place[0]},{place[1]}" == top else 0.0 for place in values}
        tied = dict(zip(data.names, ~apart, strict=True)) if min(data.noise.df, noise.df) > 0 else {}
    else:
        tied = {}
    table = []
    for b, y_label in enumerate(ys.labels):
        for a, x_label in enumerate(xs.labels):
            found = np.array(list(values.get((a, b), {}).values()))
            row: dict[str, object] = {"x": x_label, "y": y_label, "xi": a, "yi": b, "n": len(found)}
            row |= counted if (counted := counts.get((a, b))) else _NOT_RUN
            if len(found):
                row["status"] = "measured" if len(found) >= FEW else "few"
            half = noise.half_width(len(found)) if len(found) else math.nan
            mean = float(found.mean()) if len(found) else math.nan
            row |= {"mean": mean, "sd": float(found.std(ddof=1)) if len(found) > 1 else math.nan, "half": half}
            row |= {"low": mean - half, "high": mean + half} | diffs.get((a, b), _NO_DIFFERENCE)
            row |= {"best": best.get((a, b)) == 1.0, "tied": bool(tied.get(f"{a},{b}", False))}
            table.append(row)
    averaged = tuple(n for n in frame.axes if n not in (x, y) and n not in fixed_text and frame.search[f"p.{n}"].nunique() > 1)
    return Cells(xs, ys, pd.DataFrame(table), noise, diff_noise, baseline, unit, frame.exploration, fixed_text, averaged, values)


Place = tuple[int, int]


def _values(rows: pd.DataFrame, unit: str) -> dict[Place, dict[float, float]]:
    """Values of each cell by replicate: by seed (mean over what is not shown), or by configuration (mean over its seeds)."""
    done = rows[rows["finished"]]
    means = done.groupby(["xi", "yi", "seed" if unit == "seed" else "number"])["value"].mean()
    found: dict[Place, dict[float, float]] = {}
    for (a, b, replicate), value in zip(means.index.tolist(), means.tolist(), strict=True):
        found.setdefault((int(a), int(b)), {})[float(replicate)] = value
    return found


def _noise(values: Mapping[tuple[int, int], Mapping[float, float]], unit: str) -> Pooled:
    if not values:
        return NO_NOISE
    if unit == "seed":
        return pooled_by_seed(_matrix(values))
    found = pooled([np.array(list(by.values())) for by in values.values()])
    return found if found.df >= LEAST_DF else NO_NOISE


def _matrix(values: Mapping[tuple[int, int], Mapping[float, float]]) -> np.ndarray:
    seeds = sorted({seed for by in values.values() for seed in by})
    return np.array([[by.get(seed, math.nan) for seed in seeds] for by in values.values()])


_NO_DIFFERENCE = {"diff": math.nan, "diff_half": math.nan, "diff_low": math.nan, "diff_high": math.nan, "paired": 0}


def _differences(
    rows: pd.DataFrame,
    values: Mapping[tuple[int, int], Mapping[float, float]],
    baseline: BaselineValues | None,
    unit: str,
    noise: Pooled,
) -> tuple[dict[tuple[int, int], dict[str, float]], Pooled]:
    """Difference of each cell to the baseline with its interval: paired by seed where seeds are shared, else of the two means."""
    if baseline is None or not baseline.by_seed:
        return {}, NO_NOISE
    shared = rows[rows["seed"].isin(list(baseline.by_seed))]
    pairs = _values(shared.assign(value=shared["value"] - shared["seed"].map(dict(baseline.by_seed))), unit)
    diff_noise = _noise(pairs, unit)
    out = {}
    for place, by in values.items():
        if place in pairs:
            diff = float(np.mean(list(pairs[place].values())))
            half, paired = diff_noise.half_width(len(pairs[place])), len(pairs[place])
        else:
            diff, paired = float(np.mean(list(by.values()))) - baseline.mean, 0
            half = noise.half_width(1 / (1 / len(by) + 1 / len(baseline.by_seed)))
        out[place] = {"diff": diff, "diff_half": half, "diff_low": diff - half, "diff_high": diff + half, "paired": paired}
    return out, diff_noise


_NOT_RUN = {"seeds": 0, "runs": 0, "configs": 0, "pruned": 0, "failed": 0, "running": 0, "status": "not run"}


def _counts(rows: pd.DataFrame) -> dict[Place, dict[str, object]]:
    """What was tried in each cell, and its status where nothing has finished there."""
    found: dict[Place, dict[str, object]] = {}
    states = rows.drop_duplicates(["xi", "yi", "number"]).groupby(["xi", "yi", "state"]).size()
    for (a, b, state), count in zip(states.index.tolist(), states.tolist(), strict=True):
        row = found.setdefault((int(a), int(b)), dict(_NOT_RUN))
        if (name := _STATES.get(state)) is not None:
            row[name] = int(str(row[name])) + count
    done = rows[rows["finished"]].groupby(["xi", "yi"])
    for column, counted in (("seeds", done["seed"].nunique()), ("runs", done.size()), ("configs", done["config"].nunique())):
        for (a, b), count in zip(counted.index.tolist(), counted.tolist(), strict=True):
            found[int(a), int(b)][column] = count
    for row in found.values():
        row["status"] = next((name for name in ("pruned", "failed", "running") if row[name]), "not run")
    return found


_STATES = {"PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "running"}
