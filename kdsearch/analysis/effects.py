"""Strength of parameters and pairs in a replicated factorial: analysis of variance with seeds as a block.

A complete grid needs no surrogate: the sums of squares split exactly into main effects, pairs, higher orders, seeds and residual.
Raw shares flatter every effect (noise alone gives an interaction with many cells a large share), so the shares reported are
ε² = (SS − df · MS_residual) / SS_total (Kelley 1935), which are unbiased enough to be 0 on average where there is no effect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import levels_of
from kdsearch.analysis.noise import CONFIDENCE

DRAWS = 1000
SEED, RESIDUAL, HIGHER = "seed (block)", "noise", "three or more together"


@dataclass(frozen=True)
class Factorial:
    """A complete replicated factorial: ``values`` has shape (levels of each parameter …, seeds); ``left_out`` says what was dropped."""

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    values: np.ndarray
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effects:
    """Shares of variance. ``table`` columns: ``effect`` (``a``, ``a × b``, …), ``order`` (1 main, 2 pair, 0 block or noise), ``ss, df,
    ms, f, p, eta2`` (raw share), ``share`` (ε²), ``low, high`` (95% bootstrap interval of ε²). Rows: strongest first, then seeds, noise.
    """

    table: pd.DataFrame
    factorial: Factorial
    residual_sd: float
    residual_df: int

    def share(self, *names: str) -> pd.Series | None:
        """The row of one parameter or pair, in any order of names; None where it is not there."""
        wanted = set(names)
        for _, row in self.table.iterrows():
            if row["order"] == len(names) and set(str(row["effect"]).split(" × ")) == wanted:
                return row
        return None


def factorial_of(frame: StudyFrame) -> Factorial | None:
    """The complete factorial inside a grid, or None: fewer than two seeds, or no parameter with two levels left.

    Where runs are missing, what misses most (a level or a seed) is left out until the rest is complete.
    """
    varied = [n for n in frame.axes if frame.finished[f"p.{n}"].nunique() > 1 and not frame.finished[f"p.{n}"].isna().any()]
    if not frame.grid or not varied or any(axis.parent is not None for axis in frame.axes.values()):
        return None
    levels = [levels_of(frame, name) for name in varied]
    if any(level.binned for level in levels):
        return None
    done = frame.finished
    seeds = sorted(done["seed"].unique())
    values = np.full([*(len(level.labels) for level in levels), len(seeds)], math.nan)
    places = [level.index(done) for level in levels]
    place_seed = np.searchsorted(seeds, done["seed"].to_numpy(float))
    values[(*places, place_seed)] = done["value"].to_numpy(float)
    labels = [list(level.labels) for level in levels] + [[f"seed {int(s)}" for s in seeds]]
    dropped: list[str] = []
    while np.isnan(values).any() and min(values.shape) > 0:
        missing = np.isnan(values)
        shares = [(missing.mean(axis=tuple(a for a in range(values.ndim) if a != axis)), axis) for axis in range(values.ndim)]
        share, axis = max(((float(s.max()), axis) for s, axis in shares))
        worst = int(np.argmax(missing.mean(axis=tuple(a for a in range(values.ndim) if a != axis))))
        del share
        name = labels[axis].pop(worst)
        dropped.append(name if axis == values.ndim - 1 else f"{varied[axis]} {name}")
        values = np.delete(values, worst, axis=axis)
    kept = [i for i in range(len(varied)) if values.shape[i] > 1]
    if values.size == 0 or values.shape[-1] < 2 or not kept:
        return None
    values = values.reshape([values.shape[i] for i in kept] + [values.shape[-1]])
    return Factorial(tuple(varied[i] for i in kept), tuple(tuple(labels[i]) for i in kept), values, tuple(dropped))


def sums_of_squares(values: np.ndarray, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
    """``{effect: (sum of squares, degrees of freedom)}`` of a complete factorial.

    ``values`` has shape (..., levels of each parameter, seeds); leading dimensions are independent tables, and the sums have their shape.
    """
    k = len(names)
    lead = values.ndim - k - 1
    axes = tuple(range(lead, values.ndim))
    total = values - values.mean(axis=axes, keepdims=True)
    found: dict[str, tuple[np.ndarray, int]] = {}
    means: dict[tuple[int, ...], np.ndarray] = {(): np.zeros_like(values.mean(axis=axes, keepdims=True))}
    for order in (1, 2):
        for chosen in itertools.combinations(range(k), order):
            others = tuple(lead + a for a in range(k + 1) if a not in chosen)
            effect = total.mean(axis=others, keepdims=True)
            for part in range(order):
                for smaller in itertools.combinations(chosen, part):
                    effect = effect - means[smaller]
            means[chosen] = effect
            weight = math.prod(values.shape[o] for o in others)
            df = math.prod(values.shape[lead + a] - 1 for a in chosen)
            found[" × ".join(names[a] for a in chosen)] = ((effect**2).sum(axis=axes) * weight, df)
    cell = total.mean(axis=-1, keepdims=True)
    n = values.shape[-1]
    between = (cell**2).sum(axis=axes) * n
    if k > 2:
        cell_df = math.prod(values.shape[lead:-1]) - 1
        found[HIGHER] = (between - sum(ss for ss, _ in found.values()), cell_df - sum(df for _, df in found.values()))
    cells = math.prod(values.shape[lead:-1])
    block = total.mean(axis=tuple(range(lead, values.ndim - 1)), keepdims=True)
    ss_block = (block**2).sum(axis=axes) * cells
    found[SEED] = (ss_block, n - 1)
    found[RESIDUAL] = ((total**2).sum(axis=axes) - between - ss_block, (cells - 1) * (n - 1))
    return found


def shares(sums: Mapping[str, tuple[np.ndarray, int]]) -> dict[str, np.ndarray]:
    """ε² of each effect, not below 0, and what is left as noise; they sum to 1."""
    ss_total = sum(ss for ss, _ in sums.values())
    ss_rest, df_rest = sums[RESIDUAL]
    ms_rest = ss_rest / df_rest
    safe = np.where(ss_total > 0, ss_total, 1.0)
    found = {name: np.maximum((ss - df * ms_rest) / safe, 0.0) for name, (ss, df) in sums.items() if name != RESIDUAL}
    found[RESIDUAL] = np.maximum(1.0 - sum(found.values()), 0.0)
    return found


def effects(factorial: Factorial, *, draws: int = DRAWS, seed: int = 0) -> Effects:
    """Shares of variance with 95% bootstrap intervals.

    Resampled residuals on top of the fitted cell means would count the noise in those means twice, so each fitted effect is first shrunk
    by √(1 − 1/F) (to nothing where F < 1): the bootstrap's truth then has the effect's unbiased sum of squares. Residuals are scaled to the
    unbiased variance. The interval holds the middle 95% of the redrawn ε².
    """
    values, names = factorial.values, factorial.names
    sums = sums_of_squares(values, names)
    ss_rest, df_rest = sums[RESIDUAL]
    ms_rest = float(ss_rest) / df_rest if df_rest else math.nan
    point = shares(sums)
    low_high = _bootstrap(values, names, sums, ms_rest, draws, seed)
    total = float(sum(float(ss) for ss, _ in sums.values()))
    rows = []
    for name, (ss, df) in sums.items():
        ms = float(ss) / df if df else math.nan
        f = ms / ms_rest if name != RESIDUAL and ms_rest > 0 else math.nan
        p = float(stats.f.sf(f, df, df_rest)) if math.isfinite(f) else math.nan
        order = 0 if name in (SEED, RESIDUAL) else 3 if name == HIGHER else name.count(" × ") + 1
        low, high = low_high[name]
        eta2 = float(ss) / total if total > 0 else math.nan
        rows.append([name, order, float(ss), df, ms, f, p, eta2, float(point[name]), low, high])
    table = pd.DataFrame(rows, columns=["effect", "order", "ss", "df", "ms", "f", "p", "eta2", "share", "low", "high"])
    last = table["effect"].map({SEED: 1, RESIDUAL: 2}).fillna(0)
    table = table.assign(last=last).sort_values(["last", "share"], ascending=[True, False], kind="stable").drop(columns="last")
    return Effects(table.reset_index(drop=True), factorial, math.sqrt(max(ms_rest, 0.0)), df_rest)


def _bootstrap(
    values: np.ndarray,
    names: Sequence[str],
    sums: Mapping[str, tuple[np.ndarray, int]],
    ms_rest: float,
    draws: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    if not ms_rest > 0:
        return {name: (float(v), float(v)) for name, v in shares(sums).items()}
    rng = np.random.default_rng(seed)
    cell = values.mean(axis=-1, keepdims=True)
    block = values.mean(axis=tuple(range(values.ndim - 1)), keepdims=True) - values.mean()
    residual = values - cell - block
    residual = residual * math.sqrt(ms_rest / float((residual**2).mean()))
    truth = values.mean() + _shrunk(values, names, sums, ms_rest)
    ss_block, df_block = sums[SEED]
    truth = truth + block * _shrink(float(ss_block), df_block, ms_rest)
    chunk = max(1, min(draws, 2_000_000 // values.size))
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        redrawn = truth + rng.choice(residual.ravel(), size=(size, *values.shape))
        for name, share in shares(sums_of_squares(redrawn, names)).items():
            found.setdefault(name, []).append(share)
    tail = (1 - CONFIDENCE) / 2
    return {name: tuple(np.quantile(np.concatenate(parts), [tail, 1 - tail]).tolist()) for name, parts in found.items()}


def _shrink(ss: float, df: int, ms_rest: float) -> float:
    return math.sqrt(max(1 - df * ms_rest / ss, 0.0)) if ss > 0 else 0.0


def _shrunk(values: np.ndarray, names: Sequence[str], sums: Mapping[str, tuple[np.ndarray, int]], ms_rest: float) -> np.ndarray:
    """Cell means with each effect shrunk to its unbiased size, without the grand mean; shape (levels …, 1)."""
    k = len(names)
    cell = values.mean(axis=-1, keepdims=True) - values.mean()
    raw: dict[tuple[int, ...], np.ndarray] = {(): np.zeros([1] * values.ndim)}
    fitted: np.ndarray = np.zeros_like(cell)
    rest = cell.copy()
    for order in (1, 2):
        for chosen in itertools.combinations(range(k), order):
            effect = cell.mean(axis=tuple(a for a in range(k) if a not in chosen), keepdims=True)
            for part in range(order):
                for smaller in itertools.combinations(chosen, part):
                    effect = effect - raw[smaller]
            raw[chosen] = effect
            ss, df = sums[" × ".join(names[a] for a in chosen)]
            fitted = fitted + effect * _shrink(float(ss), df, ms_rest)
            rest = rest - effect
    if HIGHER in sums:
        ss, df = sums[HIGHER]
        fitted = fitted + rest * _shrink(float(ss), df, ms_rest)
    return fitted
