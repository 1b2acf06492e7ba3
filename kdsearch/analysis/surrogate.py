"""Surrogates of adaptive studies: what a model of the finished trials says, and how far it can be believed.

A Gaussian process (Matérn 5/2, one length scale a parameter, on the declared scales) with the seeds' noise gives predictions and pairwise
interactions; a random forest gives importances, which are shown only where its out-of-bag R² is good enough. All of it describes the
trials that the search chose and the pruner let through: exploration, not claims.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeRegressor

from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import Levels
from kdsearch.analysis.noise import percentile_interval, replicates
from kdsearch.analysis.select import by_configuration

FEWEST = 12
"""Finished configurations below which no surrogate is made."""
GOOD_ENOUGH = 0.3
"""Out-of-bag R² from which importances are shown."""
MOST, MOST_FOREST = 200, 600
"""Configurations a Gaussian process is made from (it takes cubic time), and a forest; of more, evenly many over the study's course."""
PAIRS_AMONG = 4
"""Parameters among which pairs are looked at: the strongest by the forest, and the two shown."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Finished configurations as numbers: ``X`` (n, parameters) in [0, 1] on the declared scales (absent: −0.5), ``y`` (n,) means,
    ``noise`` (n,) variance of each mean or None where seeds say nothing, ``labels`` flags columns that have no order.

    Equal only to itself, so that what is fitted to it is kept with it."""

    names: tuple[str, ...]
    X: np.ndarray
    y: np.ndarray
    noise: np.ndarray | None
    labels: np.ndarray
    configs: tuple[str, ...]


def inputs(frame: StudyFrame) -> Inputs:
    """The surrogate's inputs: parameters that vary among finished configurations."""
    done = frame.configs.sort_values("number", kind="stable") if len(frame.configs) else frame.configs
    names = [n for n in frame.axes if len(done) and done[f"p.{n}"].nunique(dropna=False) > 1]
    columns = [np.nan_to_num(frame.axes[n].scaled([None if pd.isna(v) else v for v in done[f"p.{n}"]]), nan=-0.5) for n in names]
    X = np.stack(columns, axis=1) if columns else np.empty((len(done), 0))
    data = replicates(by_configuration(frame.finished))
    noise = data.noise.sd**2 / done["n"].to_numpy(float) if data.noise.df > 0 and len(done) else None
    labels = np.array([frame.axes[n].kind == "levels" and not frame.axes[n].ordered for n in names], dtype=bool)
    return Inputs(tuple(names), X, done["mean"].to_numpy(float), noise, labels, tuple(done["config"]))


@dataclass(frozen=True)
class Process:
    """A fitted Gaussian process that is given parameters as :class:`Inputs` has them: ``codes`` are the values of each column that has no
    order, which the process sees one-hot."""

    regressor: GaussianProcessRegressor
    codes: Mapping[int, np.ndarray]

    def encoded(self, X: np.ndarray) -> np.ndarray:
        """What the process itself is given: a column for each label, then the other parameters."""
        others = [j for j in range(X.shape[1]) if j not in self.codes]
        return np.hstack([*(X[:, [j]] == codes for j, codes in self.codes.items()), X[:, others]]).astype(float)

    def predict(self, X: np.ndarray, **options: bool) -> Any:
        """Means (n,); with scikit-learn's ``return_std`` or ``return_cov`` also the noise of a single run and what is not known."""
        return self.regressor.predict(self.encoded(X), **options)


def fit(data: Inputs, rows: np.ndarray | None = None, kernel: Kernel | None = None) -> Process:
    """A Gaussian process fitted to some rows (default all); a ``kernel`` that was fitted before is kept as it is, else it is optimized.

    Values are standardized by the process itself. The seeds' noise is each mean's variance where it is known; what is left, and all noise
    where no configuration has two seeds, is learned (WhiteKernel).
    """
    rows = np.arange(len(data.y)) if rows is None else rows
    codes = {int(j): np.unique(data.X[:, j]) for j in np.flatnonzero(data.labels)}
    optimizer = "fmin_l_bfgs_b" if kernel is None else None
    if kernel is None:
        dimensions = data.X.shape[1] + sum(len(values) - 1 for values in codes.values())
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(dimensions, 0.7), (0.05, 20.0), nu=2.5)
        kernel += WhiteKernel(0.05, (1e-5, 1.0))
    y = data.y[rows]
    alpha = 1e-8 if data.noise is None else np.maximum(data.noise[rows] / (float(np.std(y)) ** 2 or 1.0), 1e-8)
    made = Process(GaussianProcessRegressor(kernel, alpha=alpha, normalize_y=True, optimizer=optimizer), codes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made.regressor.fit(made.encoded(data.X[rows]), y)
    return made


def thinned(data: Inputs, most: int = MOST) -> Inputs:
    """At most ``most`` configurations, evenly over the study's course."""
    if len(data.y) <= most:
        return data
    rows = np.linspace(0, len(data.y) - 1, most).astype(int)
    noise = data.noise[rows] if data.noise is not None else None
    return Inputs(data.names, data.X[rows], data.y[rows], noise, data.labels, tuple(data.configs[i] for i in rows))


@lru_cache(maxsize=4)
def _fitted(data: Inputs) -> tuple[Inputs, Process]:
    """The configurations a process is made from, and the process, its kernel optimized: what every picture of it shares."""
    data = thinned(data)
    return data, fit(data)


@dataclass(frozen=True)
class Predicted:
    """Cross-validated predictions: ``table`` (``config, observed, predicted, sd``) and R² (can be negative: worse than the mean)."""

    table: pd.DataFrame
    r2: float


def cross_validated(data: Inputs, *, folds: int = 5, seed: int = 0) -> Predicted | None:
    """Predicted against observed of configurations that the process did not see; None below :data:`FEWEST` configurations.

    The kernel is fitted once on all; within the folds only the data change.
    """
    if len(data.y) < FEWEST or not data.names or np.ptp(data.y) == 0:
        return None
    data, model = _fitted(data)
    predicted, spread = np.empty(len(data.y)), np.empty(len(data.y))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(data.X):
        part = fit(data, train, model.regressor.kernel_)
        predicted[test], spread[test] = part.predict(data.X[test], return_std=True)
    r2 = 1 - float(((data.y - predicted) ** 2).sum() / ((data.y - data.y.mean()) ** 2).sum())
    table = pd.DataFrame({"config": data.configs, "observed": data.y, "predicted": predicted, "sd": spread})
    return Predicted(table, r2)


def surface(frame: StudyFrame, data: Inputs, x: Levels, y: Levels, *, background: int = 40, seed: int = 0) -> pd.DataFrame | None:
    """What the process expects at each pair of levels: ``x, y, xi, yi, mean, sd``, averaged over other parameters as they were tried.

    ``sd`` is the process's own, of that average (the noise of single runs left out). None below :data:`FEWEST` configurations, or where a
    parameter shown does not vary. Levels at which a parameter does not exist are left out.
    """
    if len(data.y) < FEWEST or np.ptp(data.y) == 0 or not {x.name, y.name} <= set(data.names):
        return None
    data, model = _fitted(data)
    process = model.regressor
    noise = process.kernel_.k2.noise_level
    sample = data.X[np.random.default_rng(seed).permutation(len(data.y))[:background]]
    column = {level.name: data.names.index(level.name) for level in (x, y)}
    rows = []
    for b, y_label in enumerate(y.labels):
        for a, x_label in enumerate(x.labels):
            spot = {level.name: _coordinate(frame, level, i) for level, i in ((x, a), (y, b))}
            if not all(math.isfinite(v) for v in spot.values()):
                continue
            points = sample.copy()
            for name, value in spot.items():
                points[:, column[name]] = value
            mean, covariance = model.predict(points, return_cov=True)
            # Each point's diagonal holds the noise of a single run (the white kernel), which an average over many would not show.
            own = covariance - np.eye(len(points)) * noise * process._y_train_std**2
            rows.append([x_label, y_label, a, b, float(mean.mean()), math.sqrt(max(float(own.mean()), 0.0))])
    return pd.DataFrame(rows, columns=["x", "y", "xi", "yi", "mean", "sd"])


def _coordinate(frame: StudyFrame, levels: Levels, i: int) -> float:
    """A level on its parameter's scale in [0, 1]; NaN for where the parameter does not exist."""
    axis = frame.axes[levels.name]
    if axis.kind == "levels":
        return float(axis.scaled([levels.labels[i]])[0]) if levels.labels[i] in axis.labels else math.nan
    return float(axis.scaled([levels.numbers[i]])[0]) if math.isfinite(levels.numbers[i]) else math.nan


@dataclass(frozen=True)
class Importances:
    """Permutation importances of a random forest as shares: ``table`` (``effect, share, low, high``), out-of-bag R², and whether it is
    good enough to show them."""

    table: pd.DataFrame
    r2: float

    @property
    def shown(self) -> bool:
        return self.r2 >= GOOD_ENOUGH


@dataclass(frozen=True)
class Forest:
    """Regression trees, each grown on rows drawn with replacement (Breiman 2001); ``drawn`` (trees, n) counts how often each has a row.

    The very trees of scikit-learn's RandomForestRegressor, without what that does around each, which takes longer than small trees do.
    """

    trees: Sequence[DecisionTreeRegressor]
    drawn: np.ndarray

    @staticmethod
    def grown(X: np.ndarray, y: np.ndarray, trees: int, seed: int) -> Forest:
        """A forest of so many trees, of two configurations a leaf at least."""
        n, X = len(y), X.astype(np.float32)
        seeds = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=trees)
        drawn = np.stack([np.bincount(np.random.RandomState(s).randint(0, n, n, dtype=np.int32), minlength=n) for s in seeds])
        made = [DecisionTreeRegressor(min_samples_leaf=2, random_state=s) for s in seeds]
        return Forest([tree.fit(X, y, weights, check_input=False) for tree, weights in zip(made, drawn.astype(float), strict=True)], drawn)

    def each(self, X: np.ndarray) -> np.ndarray:
        """Predictions of each tree, shape (trees, n)."""
        X = X.astype(np.float32)
        return np.stack([tree.predict(X, check_input=False) for tree in self.trees])

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Mean prediction of the trees, shape (n,)."""
        return np.asarray(self.each(X).mean(axis=0))

    def unseen_r2(self, X: np.ndarray, y: np.ndarray) -> float:
        """Out-of-bag R²: each row predicted by the trees that were not given it."""
        unseen = self.drawn == 0
        told = unseen.any(axis=0)
        predicted = (self.each(X) * unseen).sum(axis=0)[told] / unseen.sum(axis=0)[told]
        return float(r2_score(y[told], predicted))


def importances(data: Inputs, *, trees: int = 64, draws: int = 8, seed: int = 0) -> Importances | None:
    """Share of each parameter in the forest's permutation importance, with an interval from forests on resampled configurations.

    None below :data:`FEWEST` configurations. Shares are of the sum of importances, so they say nothing of noise; R² does.
    """
    if len(data.y) < FEWEST or not data.names:
        return None
    data = thinned(data, MOST_FOREST)
    forest = Forest.grown(data.X, data.y, trees, seed)
    point = permutation_shares(forest, data.X, data.y, seed, 10)
    rng = np.random.default_rng(seed)
    again = []
    for draw in range(draws):
        rows = rng.integers(0, len(data.y), len(data.y))
        small = Forest.grown(data.X[rows], data.y[rows], 20, draw)
        again.append(permutation_shares(small, data.X, data.y, draw))
    low, high = np.quantile(np.array(again), [0.025, 0.975], axis=0)
    table = pd.DataFrame({"effect": data.names, "share": point, "low": np.minimum(low, point), "high": np.maximum(high, point)})
    table = table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    return Importances(table, forest.unseen_r2(data.X, data.y))


def permutation_shares(forest: Any, X: np.ndarray, y: np.ndarray, seed: int, repeats: int = 2) -> np.ndarray:
    """Permutation importances (rise of the squared error, mean of ``repeats``; Breiman 2001) as shares of their sum.

    As scikit-learn's ``permutation_importance``, with all permuted tables in one call of the forest.
    """
    rng = np.random.default_rng(seed)
    n, columns = X.shape
    tables = np.tile(X, (1 + columns * repeats, 1, 1))
    for i in range(columns * repeats):
        tables[1 + i, :, i // repeats] = rng.permutation(X[:, i // repeats])
    errors = ((forest.predict(tables.reshape(-1, columns)).reshape(-1, n) - y) ** 2).mean(axis=1)
    found = np.maximum(errors[1:].reshape(columns, repeats).mean(axis=1) - errors[0], 0.0)
    shares: np.ndarray = found / found.sum() if found.sum() > 0 else found
    return shares


def h_statistics(model: Any, X: np.ndarray, pairs: Sequence[tuple[int, int]], *, points: int = 6) -> list[float]:
    """Friedman & Popescu's (2008, eq. 44) H of each pair of columns: the share of the joint effect that is not the sum of the two single
    ones, in [0, 1]. H, not H².

    From the partial dependence over the rows of ``X``, on a grid of at most ``points`` values a parameter, weighted equally.
    """
    grids = {j: _grid(X[:, j], points) for j in {j for pair in pairs for j in pair}}

    def dependence(*features: int) -> np.ndarray:
        found = partial_dependence(model, X, [grids[j] for j in features], features)
        return np.asarray(found - found.mean())

    single = {j: dependence(j) for j in grids}
    out = []
    for first, second in pairs:
        joint = dependence(first, second)
        total = float((joint**2).sum())
        rest = joint - single[first][:, None] - single[second][None, :]
        out.append(math.sqrt(min(float((rest**2).sum()) / total, 1.0)) if total > 0 else 0.0)
    return out


def partial_dependence(model: Any, X: np.ndarray, grids: Sequence[np.ndarray], features: Sequence[int]) -> np.ndarray:
    """Mean prediction over the rows of ``X`` at each point of a grid of one or two columns, shape (values of the first, …).

    As scikit-learn's ``partial_dependence`` with ``method="brute"``, with all points in one call of the model.
    """
    spots = np.stack([axis.ravel() for axis in np.meshgrid(*grids, indexing="ij")], axis=1)
    points = np.tile(X, (len(spots), 1, 1))
    points[:, :, list(features)] = spots[:, None, :]
    found: np.ndarray = model.predict(points.reshape(-1, X.shape[1])).reshape(len(spots), len(X)).mean(axis=1)
    return found.reshape([len(grid) for grid in grids])


def _grid(column: np.ndarray, points: int) -> np.ndarray:
    values = np.unique(column)
    # Values that occur: a label between two labels is none.
    return values if len(values) <= points else np.unique(np.quantile(column, np.linspace(0.05, 0.95, points), method="nearest"))


def interactions(data: Inputs, first: list[str], *, draws: int = 8, seed: int = 0, background: int = 50) -> pd.DataFrame:
    """H-statistic of pairs among the parameters named first (at most :data:`PAIRS_AMONG`): ``effect, h, low, high``.

    The model is the Gaussian process; the bootstrap refits it on resampled configurations with its kernel kept. Empty below
    :data:`FEWEST` configurations.
    """
    kept = [n for n in first if n in data.names][:PAIRS_AMONG]
    if len(data.y) < FEWEST or len(kept) < 2 or np.ptp(data.y) == 0:
        return pd.DataFrame(columns=["effect", "h", "low", "high"])
    rng = np.random.default_rng(seed)
    data, model = _fitted(data)
    sample = data.X[rng.permutation(len(data.y))[:background]]
    pairs = [(data.names.index(a), data.names.index(b)) for a, b in itertools.combinations(kept, 2)]
    point = h_statistics(model, sample, pairs)
    again = []
    for _ in range(draws):
        rows = np.unique(rng.integers(0, len(data.y), len(data.y)))  # a point twice would count as exact to the process
        refitted = fit(data, rows, model.regressor.kernel_)
        again.append(h_statistics(refitted, sample[: background // 2], pairs, points=4))
    bounds = [percentile_interval(np.array(again)[:, i]) for i in range(len(pairs))]
    names = [f"{data.names[a]} × {data.names[b]}" for a, b in pairs]
    return pd.DataFrame(
        {
            "effect": names,
            "h": point,
            "low": [min(b[0], h) for b, h in zip(bounds, point, strict=True)],
            "high": [max(b[1], h) for b, h in zip(bounds, point, strict=True)],
        }
    )
