"""Whether early epochs foretell the end: rank correlation of epoch k with the last, over trials that were not cut."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.noise import percentile_interval

DRAWS = 300
FEWEST = 5
"""Trials below which a rank correlation says nothing."""


def rank_correlation(frame: StudyFrame, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of each epoch with the last: ``epoch, correlation, low, high, n``; bootstrap over trials (95%).

    Trials that a pruner cut are missing, so under pruning the correlation is of survivors and too low for early epochs. Empty where
    fewer than :data:`FEWEST` trials reached the end.
    """
    columns = ["epoch", "correlation", "low", "high", "n"]
    done = frame.curves[frame.curves["state"] == "COMPLETE"]
    wide = done.pivot_table(index="number", columns="epoch", values="value")
    if wide.shape[1] < 2:
        return pd.DataFrame(columns=columns)
    wide = wide.dropna()
    values = wide.to_numpy(float)
    n = len(values)
    if n < FEWEST:
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(seed)
    if n > 400:  # enough for an interval of ±0.1; ranks of thousands of trials a few hundred times take long
        values = values[rng.choice(n, 400, replace=False)]
    picks = rng.integers(0, len(values), size=(draws, len(values)))
    last, drawn_last = _ranks(values[None, :, -1]), _ranks(values[picks, -1])
    rows = []
    for k, epoch in enumerate(wide.columns[:-1]):
        point = _correlations(_ranks(values[None, :, k]), last)[0]
        low, high = percentile_interval(_correlations(_ranks(values[picks, k]), drawn_last))
        rows.append([int(epoch), float(point), low, high, n])
    return pd.DataFrame(rows, columns=columns)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of ``a`` with that row of ``b``, both (draws, n); shape (draws,), NaN where a row is constant."""
    return _correlations(_ranks(a), _ranks(b))


def _ranks(a: np.ndarray) -> np.ndarray:
    """Ranks within each row, centred."""
    ranks = stats.rankdata(a, axis=1)
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True))


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1.0), math.nan)
