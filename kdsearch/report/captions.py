"""Captions: what is shown, of how many seeds, on which split, with which interval."""

from __future__ import annotations

import math

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.noise import Pooled
from kdsearch.report.style import Words, decimals

EXPLORATION = "Exploration: the search chose what to try, so cells are not a fair sample; draw no claim from differences between them."


def split_words(metric: str) -> str:
    """The split that the objective is measured on."""
    if metric.startswith("test"):
        return "test split"
    return "validation split" if metric.startswith("val") else "training split" if metric.startswith("train") else ""


def seeds_words(frame: StudyFrame) -> str:
    """``seeds 0, 1, 2`` of the finished runs."""
    seeds = sorted({int(s) for s in frame.finished["seed"]})
    if not seeds:
        return "no finished seed"
    shown = ", ".join(map(str, seeds[:10])) + (", …" if len(seeds) > 10 else "")
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {shown}"


def interval_words(noise: Pooled, words: Words, unit: str) -> str:
    """How intervals were made: pooled SD, degrees of freedom and Levene's test, or that there are none."""
    if noise.df <= 0:
        return f"Too few cells have two {unit}s for a measure of noise, so there are no intervals."
    digits = decimals([noise.sd])
    text = f"95% intervals from the SD within cells, pooled: {noise.sd:.{digits}f} {words.difference_unit}".rstrip()
    text += f" between {unit}s, {noise.df:.3g} degrees of freedom"
    if math.isfinite(noise.levene):
        text += f"; Levene's test of equal SDs: p = {noise.levene:.2g}" + (" (they differ)" if noise.levene < 0.01 else "")
    return text + "."


def n_words(cells: Cells) -> str:
    """``n = 3 seeds`` or ``n = 1 to 5 configurations``, of cells that have a value."""
    found = cells.table.loc[cells.table["n"] > 0, "n"]
    if found.empty:
        return "n = 0"
    low, high = int(found.min()), int(found.max())
    plural = "" if high == 1 else "s"
    return f"n = {low if low == high else f'{low} to {high}'} {cells.unit}{plural} a cell"


def others_words(cells: Cells) -> str:
    """What happens to the parameters that are not shown."""
    parts = [f"{name} fixed at {value}" for name, value in cells.fixed.items()]
    if cells.averaged:
        parts.append(f"averaged over {', '.join(cells.averaged)}")
    return ("; ".join(parts)[0].upper() + "; ".join(parts)[1:] + ".") if parts else ""


def measured(cells: Cells, frame: StudyFrame, words: Words) -> str:
    """The part that all cell figures share: n, seeds, split, interval, what is averaged, and the exploration warning."""
    parts = [
        f"{n_words(cells)}; {seeds_words(frame)}; {split_words(frame.metric)}.".replace("; .", "."),
        interval_words(cells.noise, words, cells.unit),
        others_words(cells),
        EXPLORATION if cells.exploration else "",
    ]
    return " ".join(part for part in parts if part)
