"""Figure 9, what can be trusted: rank correlation of early epochs with the end, and the surrogate's predictions against what came out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from kdsearch.analysis.levels import Levels
from kdsearch.analysis.surrogate import Predicted
from kdsearch.report.drawing import Drawing, heat, scatter
from kdsearch.report.figures.heatmap import CELL_HEIGHT, add_text, bar_style, level_axis
from kdsearch.report.style import ACCENT, MUTED, SEQUENTIAL, Words, base, decimals, faint, plain, styled


def draw_early(table: pd.DataFrame) -> Drawing:
    """Spearman's correlation of each epoch with the last, with its band."""
    figure = base(320, margin={"l": 72, "r": 24, "t": 24, "b": 60})
    x = table["epoch"].tolist()
    band = {
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": faint(ACCENT, 0.18),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    figure.add_trace(scatter(x=x + x[::-1], y=table["high"].tolist() + table["low"].tolist()[::-1], **band))
    hover = [
        f"epoch {r['epoch']}: {r['correlation']:.2f} [{r['low']:.2f}, {r['high']:.2f}], n = {r['n']}" for r in table.to_dict("records")
    ]
    line = {"color": ACCENT, "width": 2}
    trace = scatter(x=x, y=table["correlation"], mode="lines+markers", line=line, hovertext=hover, hoverinfo="text", showlegend=False)
    figure.add_trace(trace)
    low = min(0.0, float(table["low"].min()))
    figure.update_xaxes(title={"text": "Epoch"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "Rank correlation<br>with the last epoch"}, range=[low - 0.05 * (low < 0), 1.02])
    return figure


def draw_surface(table: pd.DataFrame, x: Levels, y: Levels, words: Words) -> Drawing:
    """What the surrogate expects at each pair of levels, with its own SD as text: a model, not measurements."""
    z = np.full((len(y.labels), len(x.labels)), math.nan)
    z[table["yi"], table["xi"]] = table["mean"]
    low, high = float(table["mean"].min()), float(table["mean"].max())
    digits = decimals(table["sd"].tolist())
    trace = heat(
        x=list(range(len(x.labels))),
        y=list(range(len(y.labels))),
        z=z,
        colorscale=SEQUENTIAL,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        colorbar=bar_style(words.axis.replace(" (", "<br>(")),
        hovertemplate="%{z:.3f}<extra></extra>",
    )
    figure = Drawing()
    figure.add_trace(trace)
    texts = [
        (int(r["xi"]), int(r["yi"]), f"{r['mean']:.{digits}f}<br>SD {r['sd']:.{digits}f}", 2 * (r["mean"] - low) / ((high - low) or 1) - 1)
        for r in table.to_dict("records")
    ]
    add_text(figure, texts, SEQUENTIAL)
    styled(figure, max(CELL_HEIGHT * len(y.labels), 190) + 88, margin={"l": 80, "r": 16, "t": 16, "b": 64})
    level_axis(figure, "x", x)
    level_axis(figure, "y", y)
    return figure


def draw_predicted(found: Predicted, words: Words) -> Drawing:
    """Cross-validated prediction (with ±1 SD) against the observed mean; on the diagonal, the surrogate was right."""
    figure = base(430, margin={"l": 72, "r": 24, "t": 24, "b": 60})
    table = found.table
    ends = [float(table[["observed", "predicted"]].min().min()), float(table[["observed", "predicted"]].max().max())]
    diagonal = {"color": MUTED, "width": 1.5, "dash": "dot"}
    figure.add_trace(scatter(x=ends, y=ends, mode="lines", line=diagonal, hoverinfo="skip", showlegend=False))
    hover = [
        f"{plain(r['config'])}<br>observed {r['observed']:.2f}, predicted {r['predicted']:.2f} ± {r['sd']:.2f}"
        for r in table.to_dict("records")
    ]
    error = {"type": "data", "array": table["sd"], "thickness": 1, "width": 0, "color": faint(MUTED, 0.45)}
    marker = {"size": 7, "color": faint(ACCENT, 0.75)}
    look = {"mode": "markers", "marker": marker, "hovertext": hover, "hoverinfo": "text", "showlegend": False}
    figure.add_trace(scatter(x=table["observed"], y=table["predicted"], error_y=error, **look))
    unit = f" ({words.unit})" if words.unit else ""
    figure.update_xaxes(title={"text": f"Observed {words.lower}{unit}"})
    figure.update_yaxes(title={"text": f"Predicted {words.lower}{unit}"})
    return figure
