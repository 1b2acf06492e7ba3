"""The ridge: for each level of one parameter (τ), the level of the other (teacher width) with the best mean, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.noise import DRAWS, percentile_interval, replicates


@dataclass(frozen=True)
class Ridge:
    """``table`` has one row per level of x with at least two measured cells: ``x, xi, best`` (y's label), ``yi, number, low, high`` (95%
    bootstrap interval: labels of y), ``low_i, high_i`` (their indices), ``share`` (of draws that agree with ``best``), ``cells``.

    ``slope`` is Spearman's rank correlation of x's and the best y's order with its bootstrap interval: above 0, the best y rises with x.
    """

    table: pd.DataFrame
    slope: float
    slope_low: float
    slope_high: float


def ridge(cells: Cells, maximize: bool, *, draws: int = DRAWS, seed: int = 0) -> Ridge:
    """The best level of y at each level of x. Draws resample seeds; without replicates the intervals are NaN (labels empty)."""
    rng = np.random.default_rng(seed)
    data = replicates({f"{a},{b}": by for (a, b), by in cells.values.items()})
    place = {name: i for i, name in enumerate(data.names)}
    drawn = data.draw_means(rng, draws)
    known = data.noise.df > 0
    rows, tracks = [], []
    for a, label in enumerate(cells.x.labels):
        found = [b for b in range(len(cells.y.labels)) if f"{a},{b}" in place]
        if len(found) < 2:
            continue
        columns = [place[f"{a},{b}"] for b in found]
        sign = 1 if maximize else -1
        top = found[int(np.argmax(sign * data.means[columns]))]
        winners = np.array(found)[np.argmax(sign * drawn[:, columns], axis=1)] if known else np.array([top])
        low, high = (int(v) for v in np.quantile(winners, [0.025, 0.975], method="nearest"))
        row = {"x": label, "xi": a, "best": cells.y.labels[top], "yi": top, "number": cells.y.numbers[top]}
        row |= {"low": cells.y.labels[low] if known else "", "high": cells.y.labels[high] if known else ""}
        row |= {"low_i": low if known else -1, "high_i": high if known else -1}
        row |= {"share": float((winners == top).mean()) if known else math.nan, "cells": len(found)}
        rows.append(row)
        tracks.append(winners)
    columns_out = ["x", "xi", "best", "yi", "number", "low", "high", "low_i", "high_i", "share", "cells"]
    table = pd.DataFrame(rows, columns=columns_out)
    slope, low_slope, high_slope = math.nan, math.nan, math.nan
    ordered = cells.x.ordered and cells.y.ordered
    if len(table) >= 3 and ordered:
        slope = _rank_correlation(table["xi"].to_numpy(float), table["yi"].to_numpy(float)[None, :])[0]
        if known:
            paths = np.stack(tracks, axis=1).astype(float)
            low_slope, high_slope = percentile_interval(_rank_correlation(table["xi"].to_numpy(float), paths))
    return Ridge(table, float(slope), low_slope, high_slope)


def _rank_correlation(x: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x (K,) with each row of ys (B, K), 0 where a row is constant: then nothing rises."""
    rx = stats.rankdata(x) - (len(x) + 1) / 2
    ry = stats.rankdata(ys, axis=1) - (len(x) + 1) / 2
    norm = np.sqrt((rx**2).sum() * (ry**2).sum(axis=1))
    return np.where(norm > 0, (ry * rx).sum(axis=1) / np.where(norm > 0, norm, 1.0), 0.0)
