"""Differences of two sides of a factorial study, seed by seed: ``python -m tests.paired RUN SIDE SIDE``.

A side is ``parameter=label`` or ``baseline=name``, several joined by commas. What the two sides leave open must agree, and each
such combination is a line: mean difference, its 95% t interval over seeds, n. Nothing is pooled, chosen or corrected for the number
of lines.

    python -m tests.paired runs/digits_kd_vs_hard labels=kd labels=hard
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from scipy.stats import t

from kdsearch.api import Study
from kdsearch.record.trials import TrialRow

Rest = tuple[tuple[str, str], ...]


def paired(rows: list[TrialRow], left: str, right: str) -> dict[Rest, tuple[float, float, int]]:
    """What the sides leave open → (mean of left − right, half of its 95% interval, n)."""
    sides = [_side(rows, dict(part.split("=", 1) for part in text.split(","))) for text in (left, right)]
    found = {}
    for rest, values in sides[0].items():
        others = sides[1].get(rest) or sides[1].get(())  # a baseline leaves nothing open: it is held against every cell
        seeds = sorted(values.keys() & (others or {}).keys())
        gaps = np.array([values[seed] - (others or {})[seed] for seed in seeds])
        if len(gaps) > 1:
            half = float(t.ppf(0.975, len(gaps) - 1)) * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
            found[rest] = (float(gaps.mean()), half, len(gaps))
    return found


def _side(rows: list[TrialRow], fixed: Mapping[str, str]) -> dict[Rest, dict[str, float]]:
    found: dict[Rest, dict[str, float]] = defaultdict(dict)
    for row in rows:
        about = {name: str(value) for name, value in row.params.items()} | ({"baseline": row.baseline} if row.baseline else {})
        counts = row.state == "COMPLETE" and row.role in ("search", "baseline") and ("baseline" in about) == ("baseline" in fixed)
        if counts and all(about.get(name) == value for name, value in fixed.items()):
            found[tuple(sorted((name, value) for name, value in about.items() if name not in fixed))] |= row.values
    return dict(found)


if __name__ == "__main__":
    folder, first, second = sys.argv[1:]
    print(f"{first}  minus  {second}, points, 95% interval over seeds")
    for rest, (mean, half, n) in paired(Study(folder).trials(), first, second).items():
        said = ", ".join(f"{name}={value}" for name, value in rest) or "-"
        print(f"{said:40} {mean:+6.2f}  [{mean - half:+.2f}, {mean + half:+.2f}]  n={n}")
