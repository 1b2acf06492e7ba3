"""Figure 4: the same heatmap under several methods with one colour scale, and the differences between them with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdsearch.analysis.panels import Difference, Panel
from kdsearch.report.figures.heatmap import (
    add_heatmap,
    add_text,
    colour_bar,
    colour_range,
    hatched,
    heatmap_table,
    level_axis,
)
from kdsearch.report.style import DIVERGING, INK, MARK, SEQUENTIAL, Words, decimals, parameter_words, plain, signed, styled

COMPACT_WIDTH, COMPACT_HEIGHT = 54, 58
"""Pixels that a cell's three short lines of text need."""


def panels_table(panels: Sequence[Panel]) -> pd.DataFrame:
    """All panels' cells, with the panel's title as the first column."""
    return pd.concat([heatmap_table(p.cells).assign(panel=p.title) for p in panels], ignore_index=True).pipe(_panel_first)


def differences_table(found: Sequence[Difference], panels: Sequence[Panel]) -> pd.DataFrame:
    """All differences' cells: ``difference``, the two parameters, ``n, diff, half, low, high, paired``."""
    first = panels[0].cells
    tables = [d.table.rename(columns={"x": first.x.name, "y": first.y.name}).assign(difference=d.title) for d in found]
    return pd.concat(tables, ignore_index=True)[["difference", first.x.name, first.y.name, "n", "diff", "half", "low", "high", "paired"]]


def _panel_first(table: pd.DataFrame) -> pd.DataFrame:
    return table[["panel", *(c for c in table.columns if c != "panel")]]


def draw_panels(panels: Sequence[Panel], words: Words) -> go.Figure:
    """Heatmaps side by side; the colour is each panel's difference to its own baseline on one scale, or the mean on one scale."""
    compared = all(p.cells.table["diff"].notna().any() for p in panels)
    figure = _side_by_side([plain(p.title) for p in panels], panels)
    bound = max(colour_range(p.cells) for p in panels)
    values = pd.concat([p.cells.table["mean"] for p in panels])
    means = (float(values.min()), float(values.max()))
    shared: dict[str, Any] = {"coloraxis": "coloraxis", "compared": compared, "compact": True, "limit": bound, "means": means}
    for i, panel in enumerate(panels, start=1):
        add_heatmap(figure, panel.cells, words, row=1, col=i, **shared)
    if compared:
        colour: dict[str, Any] = {"colorscale": DIVERGING, "cmin": -bound, "cmax": bound}
    else:
        colour = {"colorscale": SEQUENTIAL, "cmin": means[0], "cmax": means[1]}
    return _finish(figure, panels, colour | {"colorbar": colour_bar(panels[0].cells, words, compared=compared)})


def draw_differences(found: Sequence[Difference], panels: Sequence[Panel], words: Words) -> go.Figure:
    """Heatmaps of differences between panels: text is difference ± half of its interval, bold outline where the interval excludes 0."""
    xs, ys = panels[0].cells.x, panels[0].cells.y
    bound = max((float(d.table["diff"].abs().max()) for d in found if len(d.table)), default=1.0) or 1.0
    figure = _side_by_side([plain(d.title) for d in found], panels)
    digits = decimals([h for d in found for h in d.table["half"]])
    for i, difference in enumerate(found, start=1):
        z = [[math.nan] * len(xs.labels) for _ in ys.labels]
        hover = [[""] * len(xs.labels) for _ in ys.labels]
        texts: list[tuple[int, int, str, float]] = []
        lines: tuple[list[float | None], list[float | None]] = ([], [])
        for cell in difference.table.to_dict("records"):
            if cell["x"] not in xs.labels or cell["y"] not in ys.labels:
                continue
            a, b = xs.labels.index(cell["x"]), ys.labels.index(cell["y"])
            half = f" ± {cell['half']:.{digits}f}" if math.isfinite(cell["half"]) else ""
            narrow = half.replace(" ±", "<br>±")
            z[b][a] = cell["diff"]
            texts.append((a, b, f"{signed(cell['diff'], digits)}{narrow}<br>n = {cell['n']}", cell["diff"] / bound))
            kind = "paired by seed" if cell["paired"] else "not paired"
            where = f"{parameter_words(xs.name, xs.title)}: {plain(cell['x'])}<br>{parameter_words(ys.name, ys.title)}: {plain(cell['y'])}"
            hover[b][a] = f"{where}<br><b>{signed(cell['diff'], digits)}{half} {words.difference_unit}</b>, n = {cell['n']}, {kind}"
            if cell["low"] > 0 or cell["high"] < 0:
                lines[0].extend([a - 0.46, a + 0.46, a + 0.46, a - 0.46, a - 0.46, None])
                lines[1].extend([b - 0.45, b - 0.45, b + 0.45, b + 0.45, b - 0.45, None])
        trace = go.Heatmap(
            x=list(range(len(xs.labels))),
            y=list(range(len(ys.labels))),
            z=z,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            hoverongaps=False,
        )
        missing = [(a, b) for b in range(len(ys.labels)) for a in range(len(xs.labels)) if not math.isfinite(z[b][a])]
        figure.add_trace(hatched([a for a, _ in missing], [b for _, b in missing], ["not in both"] * len(missing)), row=1, col=i)
        figure.add_trace(trace, row=1, col=i)
        outline = go.Scatter(x=lines[0], y=lines[1], mode="lines", line={"color": MARK, "width": 1.8}, hoverinfo="skip", showlegend=False)
        figure.add_trace(outline, row=1, col=i)
        add_text(figure, texts, DIVERGING, row=1, col=i, size=11)
    unit = f" ({words.difference_unit})" if words.difference_unit else ""
    bar = {
        "title": {"text": f"Difference{unit}", "side": "right", "font": {"size": 12}},
        "thickness": 14,
        "outlinewidth": 0,
        "ticks": "outside",
    }
    return _finish(figure, panels, {"colorscale": DIVERGING, "cmin": -bound, "cmax": bound, "colorbar": bar}, count=len(found))


def _side_by_side(titles: Sequence[str], panels: Sequence[Panel]) -> go.Figure:
    del panels
    return make_subplots(rows=1, cols=len(titles), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(titles))


def _finish(figure: go.Figure, panels: Sequence[Panel], coloraxis: dict[str, Any], count: int | None = None) -> go.Figure:
    xs, ys = panels[0].cells.x, panels[0].cells.y
    styled(
        figure, COMPACT_HEIGHT * len(ys.labels) + 124, margin={"l": 80, "r": 16, "t": 36, "b": 64}, barmode="overlay", coloraxis=coloraxis
    )
    figure.update_annotations(font={"size": 13, "color": INK})
    for i in range(1, (count or len(panels)) + 1):
        own = panels[i - 1].cells if count is None else panels[0].cells
        level_axis(figure, "x", own.x if count is None else xs, row=1, col=i)
        level_axis(figure, "y", own.y if count is None else ys, row=1, col=i)
        if max(len(label) for label in own.x.labels) <= 9:  # rotated only where it must be
            figure.update_xaxes(tickangle=0, tickfont={"size": 10}, row=1, col=i)
        if i > 1:
            figure.update_yaxes(title=None, row=1, col=i)
    return figure
