"""Panels: the same two parameters under several methods (studies, strata or levels of a third parameter), and their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdsearch.analysis.cells import Cells, cells
from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import levels_of
from kdsearch.analysis.noise import NO_NOISE, Pooled, pooled, pooled_by_seed


@dataclass(frozen=True)
class Panel:
    """One panel: its title and cells."""

    title: str
    cells: Cells


@dataclass(frozen=True)
class Difference:
    """Second panel minus first, cell by cell: ``table`` has ``x, y, n, diff, half, low, high, paired`` for cells that both measured.

    Paired by seed where the seeds are shared (n counts seeds), else of the two means (``paired`` False). ``overall`` is the mean over the
    shared cells with its 95% interval over seeds, NaN without two shared seeds.
    """

    title: str
    table: pd.DataFrame
    noise: Pooled
    overall: float
    overall_half: float


def panels_of_parameter(frame: StudyFrame, x: str, y: str, panel: str) -> list[Panel]:
    """A panel for each level of a third parameter."""
    levels = levels_of(frame, panel)
    found = [Panel(f"{panel} = {label}", cells(frame, x, y, {panel: label})) for label in levels.labels]
    return [p for p in found if p.cells.values]


def panels_of_frames(frames: Sequence[tuple[str, StudyFrame]], x: str, y: str) -> list[Panel]:
    """A panel for each study or stratum that searches both parameters and has a value."""
    found = [Panel(title, cells(frame, x, y)) for title, frame in frames if x in frame.axes and y in frame.axes]
    return [p for p in found if p.cells.values]


def differences(panels: Sequence[Panel], *, to_first: bool) -> list[Difference]:
    """Differences of neighbouring panels, or of each to the first."""
    pairs = [(panels[0] if to_first else panels[i - 1], panels[i]) for i in range(1, len(panels))]
    return [difference(a, b) for a, b in pairs]


def difference(first: Panel, second: Panel) -> Difference:
    """``second − first`` for every cell (matched by its levels' texts) that both measured."""
    a, b = _by_label(first.cells), _by_label(second.cells)
    shared = [place for place in b if place in a]
    gaps: dict[tuple[str, str], dict[float, float]] = {}
    seeds_count = first.cells.unit == second.cells.unit == "seed"
    for place in shared:
        common = [s for s in b[place] if s in a[place]] if seeds_count else []
        if common:
            gaps[place] = {s: b[place][s] - a[place][s] for s in common}
    noise = _noise(gaps)
    own = pooled([np.array(list(by.values())) for by in (*first.cells.values.values(), *second.cells.values.values())])
    rows = []
    for place in shared:
        if place in gaps:
            found, n = float(np.mean(list(gaps[place].values()))), float(len(gaps[place]))
            half = noise.half_width(n)
        else:
            found = float(np.mean(list(b[place].values())) - np.mean(list(a[place].values())))
            n = float(min(len(a[place]), len(b[place])))
            half = own.half_width(1 / (1 / len(a[place]) + 1 / len(b[place])))
        rows.append([place[0], place[1], int(n), found, half, found - half, found + half, place in gaps])
    table = pd.DataFrame(rows, columns=["x", "y", "n", "diff", "half", "low", "high", "paired"])
    mean, half = _overall(gaps)
    return Difference(f"{second.title} − {first.title}", table, noise, mean, half)


def _by_label(found: Cells) -> dict[tuple[str, str], Mapping[float, float]]:
    return {(found.x.labels[a], found.y.labels[b]): by for (a, b), by in found.values.items()}


def _noise(gaps: Mapping[tuple[str, str], Mapping[float, float]]) -> Pooled:
    if not gaps:
        return NO_NOISE
    seeds = sorted({s for by in gaps.values() for s in by})
    return pooled_by_seed(np.array([[by.get(s, math.nan) for s in seeds] for by in gaps.values()]))


def _overall(gaps: Mapping[tuple[str, str], Mapping[float, float]]) -> tuple[float, float]:
    """Mean over cells of the paired difference; its interval is over seeds, each seed's mean over all cells being one value."""
    if not gaps:
        return math.nan, math.nan
    seeds = set.intersection(*(set(by) for by in gaps.values()))
    by_seed = np.array([np.mean([by[s] for by in gaps.values()]) for s in sorted(seeds)])
    if len(by_seed) < 2:
        return float(np.mean([np.mean(list(by.values())) for by in gaps.values()])), math.nan
    return float(by_seed.mean()), pooled([by_seed]).half_width(len(by_seed))
