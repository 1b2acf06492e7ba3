"""Seed noise: pooled intervals, their degrees of freedom, and draws of means for everything that is bootstrapped.

Pooling the within-cell variance over all cells makes intervals of three seeds about half as wide as those from each cell's own SD,
and is exact where cells share one noise level, which Levene's test (centred at the median, Brown & Forsythe 1974) looks at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
DRAWS = 4000
"""Bootstrap draws: the standard error of a share of 0.5 is 0.8 points."""


@dataclass(frozen=True)
class Pooled:
    """Noise of one measurement: ``sd`` (same unit as the values), degrees of freedom (may be fractional), Levene's p-value.

    All NaN (``df`` 0) where no group has two values: then nothing can be said about noise.
    """

    sd: float
    df: float
    levene: float = math.nan

    def half_width(self, n: float) -> float:
        """Half of the 95% interval of a mean of ``n`` values: t(0.975, df) · sd / √n."""
        if self.df <= 0 or n <= 0:
            return math.nan
        return float(stats.t.ppf(0.5 + CONFIDENCE / 2, self.df) * self.sd / math.sqrt(n))


NO_NOISE = Pooled(math.nan, 0.0)


def pooled(groups: Sequence[np.ndarray], *, test: bool = True) -> Pooled:
    """Pooled SD of independent groups: s² = Σ(nᵢ−1)sᵢ² / Σ(nᵢ−1), with Σ(nᵢ−1) degrees of freedom; ``test`` adds Levene's."""
    several = [g for g in groups if len(g) >= 2]
    df = sum(len(g) - 1 for g in several)
    if df == 0:
        return NO_NOISE
    variance = sum(float(((g - g.mean()) ** 2).sum()) for g in several) / df
    return Pooled(math.sqrt(variance), float(df), _levene(several) if test else math.nan)


def pooled_by_seed(matrix: np.ndarray, *, test: bool = True) -> Pooled:
    """Pooled SD of cells measured on the same seeds; ``matrix`` has shape (cells, seeds), NaN where a run is missing.

    The same seed is lucky or not in all cells at once (a block), so the cells' SDs are not independent. For a complete matrix the
    pooled variance is (MS_seed + (K−1) MS_residual) / K, and Satterthwaite's (1946) approximation gives its degrees of freedom:
    K(n−1) without a block effect, and near n−1 where the seed is all the noise. Seeds that miss cells are used for the variance only.
    """
    cells = matrix[np.isfinite(matrix).any(axis=1)]
    plain = pooled([row[np.isfinite(row)] for row in cells], test=test)
    whole = cells[:, np.isfinite(cells).all(axis=0)]
    k, n = whole.shape
    if plain.df == 0 or k < 2 or n < 2:
        return plain
    residual = whole - whole.mean(axis=1, keepdims=True)
    block = residual.mean(axis=0)
    ms_block = k * float((block**2).sum()) / (n - 1)
    ms_rest = float(((residual - block) ** 2).sum()) / ((n - 1) * (k - 1))
    denominator = ms_block**2 / (n - 1) + (k - 1) * ms_rest**2 / (n - 1)
    if denominator == 0:
        return plain
    df = (ms_block + (k - 1) * ms_rest) ** 2 / denominator
    return Pooled(plain.sd, min(plain.df, max(df, float(n - 1))), plain.levene)


def _levene(groups: Sequence[np.ndarray]) -> float:
    usable = [g for g in groups if len(g) >= 3]  # of two values, both lie equally far from their median: no information
    if len(usable) < 2 or not any(np.ptp(g) > 0 for g in usable):
        return math.nan
    return float(stats.levene(*usable, center="median").pvalue)


@dataclass(frozen=True)
class Replicates:
    """Several configurations with their seeds' values: what contrasts, the best of them and bootstrap draws are made from.

    ``means`` and ``counts`` have shape (K,). ``residuals`` (R,) are the centred values of all configurations together, the seed's own
    effect taken out where all share their seeds (a contrast does not see it), scaled to the unbiased variance. ``noise`` describes them.
    """

    names: tuple[str, ...]
    means: np.ndarray
    counts: np.ndarray
    residuals: np.ndarray
    noise: Pooled
    shared_seeds: bool

    def draw_means(self, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
        """Bootstrap draws of the K means over seeds, shape (draws, K): each mean plus that of n resampled pooled residuals.

        The residuals' SD is itself uncertain, so each draw scales it by √(df/χ²), as the t distribution does; without replicates the
        draws are NaN.
        """
        k = len(self.means)
        if self.noise.df <= 0 or len(self.residuals) == 0:
            return np.full((draws, k), math.nan)
        out = np.empty((draws, k))
        for i, n in enumerate(self.counts):
            picked = rng.choice(self.residuals, size=(draws, int(n)))
            out[:, i] = picked.mean(axis=1)
        scale = np.sqrt(self.noise.df / rng.chisquare(self.noise.df, size=draws))
        return self.means + out * scale[:, None]


def replicates(values: Mapping[str, Mapping[float, float]]) -> Replicates:
    """Replicates from ``{configuration: {seed: value}}``; configurations without a value are left out."""
    kept = {name: by_seed for name, by_seed in values.items() if by_seed}
    seeds = sorted({seed for by_seed in kept.values() for seed in by_seed})
    matrix = np.array([[by_seed.get(seed, math.nan) for seed in seeds] for by_seed in kept.values()]).reshape(len(kept), len(seeds))
    counts = np.isfinite(matrix).sum(axis=1)
    means = np.nanmean(matrix, axis=1) if len(kept) else np.empty(0)
    shared = _share_seeds(matrix)
    if shared:
        means, centred = _additive(matrix)
        df = float(np.isfinite(matrix).sum() - len(kept) - len(seeds) + 1)
    else:
        centred = (matrix - means[:, None])[counts >= 2] if len(kept) else matrix
        df = float(np.maximum(counts - 1, 0).sum())
    flat = centred[np.isfinite(centred)]
    if df <= 0:
        return Replicates(tuple(kept), means, counts, np.empty(0), NO_NOISE, shared)
    sd = math.sqrt(float((flat**2).sum()) / df)
    spread = math.sqrt(float((flat**2).mean()))
    levene = _levene([row[np.isfinite(row)] for row in matrix])
    return Replicates(tuple(kept), means, counts, flat * (sd / spread if spread > 0 else 1.0), Pooled(sd, df, levene), shared)


def _share_seeds(matrix: np.ndarray) -> bool:
    """Whether configurations (rows) were run on the same seeds, but for a few missing runs, so that a seed's luck can be taken out."""
    if min(matrix.shape) < 2:
        return False
    there = np.isfinite(matrix)
    return bool(there.mean() >= 0.75 and (there.sum(axis=0) >= 2).all() and (there.sum(axis=1) >= 1).all())


def _additive(matrix: np.ndarray, rounds: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of configuration + seed: means of configurations as if each had run on every seed, and residuals (NaN where missing).

    Exact in one round where no run is missing; else rows and columns are centred in turn until they stay so.
    """
    residual, rows, columns = matrix.copy(), np.zeros(len(matrix)), np.zeros(matrix.shape[1])
    for _ in range(rounds):
        by_row = np.nanmean(residual, axis=1)
        residual, rows = residual - by_row[:, None], rows + by_row
        by_column = np.nanmean(residual, axis=0)
        residual, columns = residual - by_column, columns + by_column
        if max(np.abs(by_row).max(), np.abs(by_column).max()) <= 1e-12 * (1 + np.abs(rows).max()):
            break
    return rows + columns.mean(), residual


def best_critical(counts: np.ndarray, df: float, seed: int = 0, draws: int = 20000) -> float:
    """Critical value of comparisons with the best (Hsu 1984), simulated: 95% quantile of maxᵢ (zᵢ − z₀) / (s · √(1/nᵢ + 1/n₀)).

    The configuration that is truly best stays in the set ``mean_best − mean ≤ c · s · √(1/n + 1/n_best)`` in 95% of studies.
    ``counts`` (K,) seeds per configuration, the comparison one first.
    """
    if df <= 0 or len(counts) < 2:
        return math.nan
    return _best_critical(tuple(counts.tolist()), df, seed, draws)


@lru_cache(maxsize=256)
def _best_critical(seeds_of: tuple[float, ...], df: float, seed: int, draws: int) -> float:
    counts = np.array(seeds_of)
    rng = np.random.default_rng(seed)
    errors = 1 / np.sqrt(counts.astype(float))
    highest = np.full(draws, -np.inf)
    reference = rng.standard_normal(draws) * errors[0]
    for error in errors[1:]:
        gap = (rng.standard_normal(draws) * error - reference) / math.hypot(error, errors[0])
        np.maximum(highest, gap, out=highest)
    scale = np.sqrt(rng.chisquare(df, size=draws) / df)
    return float(np.quantile(highest / scale, CONFIDENCE))


def told_apart_from_best(data: Replicates, maximize: bool) -> np.ndarray:
    """For each configuration, whether the data tell it apart from the best, shape (K,); all False without replicates."""
    if len(data.means) < 2 or data.noise.df <= 0:
        return np.zeros(len(data.means), dtype=bool)
    scores = data.means if maximize else -data.means
    best = int(np.argmax(scores))
    order = np.r_[best, np.delete(np.arange(len(scores)), best)]
    critical = best_critical(data.counts[order], data.noise.df)
    allowance = critical * data.noise.sd * np.sqrt(1 / data.counts + 1 / data.counts[best])
    apart: np.ndarray = scores[best] - scores > allowance
    apart[best] = False
    return apart


def percentile_interval(draws: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of bootstrap draws; NaN without finite draws."""
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
