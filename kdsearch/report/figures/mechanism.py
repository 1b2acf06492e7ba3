"""Figure 7: mechanism. Entropy of the teacher's softened labels against the student's accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdsearch.analysis.early import rank_correlations
from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import Levels
from kdsearch.analysis.noise import percentile_interval
from kdsearch.report.drawing import Drawing, scatter
from kdsearch.report.style import SYMBOLS, Words, base, line_colours, parameter_words, plain

ENTROPY = "m.teacher_entropy"
DRAWS = 500


@dataclass(frozen=True)
class Mechanism:
    """``table`` (``config, seed, entropy, value, level``), Spearman's correlation over configurations with its bootstrap interval."""

    table: pd.DataFrame
    correlation: float
    low: float
    high: float
    configurations: int


def mechanism(frame: StudyFrame, by: Levels | None, *, seed: int = 0) -> Mechanism | None:
    """Entropy (nats) and objective of every finished run; None where fewer than 3 configurations recorded an entropy that differs."""
    done = frame.finished
    if ENTROPY not in done or done[ENTROPY].notna().sum() < 3:
        return None
    done = done[done[ENTROPY].notna()]
    level = by.index(done) if by is not None else np.full(len(done), -1)
    table = pd.DataFrame(
        {
            "config": done["config"].to_numpy(),
            "seed": done["seed"].astype(int).to_numpy(),
            "entropy": done[ENTROPY].to_numpy(float),
            "value": done["value"].to_numpy(float),
            "level": [by.labels[i] if by is not None and i >= 0 else "" for i in level],
        }
    )
    means = table.groupby("config")[["entropy", "value"]].mean().to_numpy(float)
    if len(means) < 3 or np.ptp(means[:, 0]) == 0:
        return None
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(means), (DRAWS, len(means)))
    low, high = percentile_interval(rank_correlations(means[picks, 0], means[picks, 1]))
    return Mechanism(table, float(rank_correlations(means[None, :, 0], means[None, :, 1])[0]), low, high, len(means))


def draw_mechanism(found: Mechanism, by: Levels | None, words: Words) -> Drawing:
    """One dot a run; colour and symbol are the levels of ``by`` (τ)."""
    figure = base(430, margin={"l": 72, "r": 24, "t": 48, "b": 60})
    labels = [label for label in (by.labels if by is not None else ("",)) if (found.table["level"] == label).any()]
    colours = line_colours(len(labels), by.ordered if by is not None else False)
    for i, label in enumerate(labels):
        mine = found.table[found.table["level"] == label]
        hover = [f"{plain(c)}<br>seed {s}: {v:.2f} {words.unit}, {e:.3f} nats" for c, s, e, v, _ in mine.itertuples(index=False)]
        marker = {"size": 7, "color": colours[i], "symbol": SYMBOLS[i % len(SYMBOLS)], "opacity": 0.8}
        told = {"name": plain(label) or "runs", "hovertext": hover, "hoverinfo": "text", "showlegend": bool(label)}
        figure.add_trace(scatter(x=mine["entropy"], y=mine["value"], mode="markers", marker=marker, **told))
    figure.update_xaxes(title={"text": "Mean entropy of the teacher's softened labels (nats)"})
    figure.update_yaxes(title={"text": words.axis})
    if by is not None:
        figure.update_layout(legend={"title": {"text": f"{parameter_words(by.name, by.title)}  "}})
    return figure
