"""Levels of a parameter for tables and figures: declared choices, the values of a grid, or bins of a continuous range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from kdsearch.analysis.frame import LEVELS_AT_MOST, Axis, StudyFrame, label_text

BINS = 6
ABSENT = "—"
"""Level of trials in which a conditional parameter does not exist."""


@dataclass(frozen=True)
class Levels:
    """Ordered levels of one parameter: texts, a number standing for each (NaN where there is none), and whether they are bins.

    ``numbers`` are the values themselves, or the middle of a bin on the declared scale; ``log`` says how to draw them.
    ``edges`` has one more entry than there are bins, and is empty for values.
    """

    name: str
    labels: tuple[str, ...]
    numbers: tuple[float, ...]
    log: bool
    ordered: bool
    edges: tuple[float, ...] = ()
    column: str = ""
    title: str = ""

    @property
    def binned(self) -> bool:
        return bool(self.edges)

    @property
    def numeric(self) -> bool:
        """Whether every level has a number, so that it can stand on a number axis."""
        return bool(self.labels) and all(math.isfinite(number) for number in self.numbers)

    def index(self, table: pd.DataFrame) -> np.ndarray:
        """Index of each row's level, shape (rows,); −1 where the row has none."""
        column = table[self.column]
        if self.binned:
            values = column.to_numpy(dtype=float, na_value=math.nan)
            found = np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, len(self.edges) - 2)
            found = np.where(np.isfinite(values), found, -1)
        else:
            place = {label: i for i, label in enumerate(self.labels)}
            found = np.array([-1 if pd.isna(v) else place.get(label_text(v), -1) for v in column], dtype=int)
        if ABSENT in self.labels:
            found = np.where(column.isna(), self.labels.index(ABSENT), found)
        return found.astype(int)


def levels_of(frame: StudyFrame, name: str, bins: int = BINS) -> Levels:
    """Levels of a parameter: choices as declared; a range's values where they are few and come again, else bins equal on its scale.

    A conditional parameter gets :data:`ABSENT` as a last level where trials lack it.
    """
    axis = frame.axes[name]
    column = frame.search[axis.column]
    absent = axis.parent is not None and bool(column.isna().any())
    if axis.kind == "levels":
        numbers: Sequence[float] = axis.numbers or (math.nan,) * len(axis.labels)
        return _levels(axis, axis.labels, numbers, False, (), absent)
    values = np.unique(column.dropna().to_numpy(dtype=float))
    repeated = len(column.dropna()) >= 2 * len(values)  # a grid, or a step: not a handful of draws from a range
    if len(values) <= LEVELS_AT_MOST and (axis.step is not None or axis.integer or repeated):
        return _levels(axis, [label_text(v) for v in values], values.tolist(), axis.log, (), absent)
    low, high = min(axis.low, values.min()), max(axis.high, values.max())
    edges = np.geomspace(low, high, bins + 1) if axis.log else np.linspace(low, high, bins + 1)
    if axis.integer:
        edges = np.unique(np.round(edges))
    middle = np.sqrt(edges[:-1] * edges[1:]) if axis.log else (edges[:-1] + edges[1:]) / 2
    labels = [f"{_short(a)}–{_short(b)}" for a, b in pairwise(edges)]
    return _levels(axis, labels, middle.tolist(), axis.log, edges.tolist(), absent)


def _levels(axis: Axis, labels: Sequence[str], numbers: Sequence[float], log: bool, edges: Sequence[float], absent: bool) -> Levels:
    if absent:
        labels, numbers = [*labels, ABSENT], [*numbers, math.nan]
    log = log or _geometric(numbers)
    return Levels(axis.name, tuple(labels), tuple(numbers), log, axis.ordered, tuple(edges), axis.column, _title(axis))


def _title(axis: Axis) -> str:
    """The parameter's title as the study gives it, with its unit; empty where it gives none."""
    title = axis.title or (axis.name.replace("_", " ") if axis.unit else "")
    return f"{title} ({axis.unit})" if axis.unit else title


def _geometric(numbers: Sequence[float]) -> bool:
    """Whether declared choices such as 1, 1.5, 2, 4 are read better on a log axis: positive, and spaced wider as they grow."""
    values = np.array([v for v in numbers if math.isfinite(v)])
    if len(values) < 3 or (values <= 0).any():
        return False
    return bool(np.std(np.diff(np.log(values))) / np.mean(np.diff(np.log(values))) < np.std(np.diff(values)) / np.mean(np.diff(values)))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" if abs(value) < 1e5 else f"{value:.2g}"


def default_axes(frame: StudyFrame) -> tuple[str | None, str | None]:
    """The two parameters of the heatmap: temperature and teacher width where both are searched, else the two with most values tried.

    Returns (x, y), with None where the study has fewer parameters.
    """
    names = list(frame.axes)
    temperature = next((n for n in names if n.lower() in ("temperature", "tau", "τ", "t")), None)
    width = next((n for n in names if "width" in n.lower()), None)
    if temperature and width:
        return temperature, width
    tried = {n: frame.search[frame.axes[n].column].nunique() for n in names}
    # Parameters that stand on a number axis come before labels, then those with more values tried.
    rest = sorted(names, key=lambda n: (not frame.axes[n].ordered, -min(tried[n], LEVELS_AT_MOST + 1)))
    rest = [n for n in rest if n not in (temperature, width)]
    picked = [n for n in (temperature, width) if n] + rest
    first = picked[0] if picked else None
    second = picked[1] if len(picked) > 1 else None
    return (second, first) if first is not None and first == width and second is not None else (first, second)
