"""Figure 4: the same heatmap under several methods with one colour scale, and the differences between them with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.panels import Difference, Panel
from kdsearch.report.drawing import Drawing, heat, scatter
from kdsearch.report.figures.heatmap import (
    add_heatmap,
    add_text,
    bar_style,
    colour_bar,
    colour_range,
    hatched,
    heatmap_table,
    level_axis,
)
from kdsearch.report.style import DIVERGING, MARK, SEQUENTIAL, Words, decimals, parameter_words, plain, signed, styled

COMPACT_WIDTH, COMPACT_HEIGHT = 54, 58
"""Pixels that a cell's three short lines of text need."""
PAGE, BESIDES, GAP, BETWEEN = 1120, 200, 24, 62
"""Pixels: the page's width, axis and colour bar beside the panels, between panels in a row, and between rows."""


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


def draw_panels(panels: Sequence[Panel], words: Words) -> Drawing:
    """Heatmaps side by side; the colour is each panel's difference to its own baseline on one scale, or the mean on one scale."""
    compared = all(p.cells.table["diff"].notna().any() for p in panels)
    spots = Spots.of(len(panels), panels[0])
    figure = spots.figure([plain(p.title) for p in panels])
    bound = max(colour_range(p.cells) for p in panels)
    values = pd.concat([p.cells.table["mean"] for p in panels])
    means = (float(values.min()), float(values.max()))
    shared: dict[str, Any] = {"coloraxis": "coloraxis", "compared": compared, "compact": True, "limit": bound, "means": means}
    for i, panel in enumerate(panels):
        add_heatmap(figure, panel.cells, words, **spots.place(i), **shared)
    if compared:
        colour: dict[str, Any] = {"colorscale": DIVERGING, "cmin": -bound, "cmax": bound}
    else:
        colour = {"colorscale": SEQUENTIAL, "cmin": means[0], "cmax": means[1]}
    return _finish(figure, spots, [p.cells for p in panels], colour | {"colorbar": colour_bar(panels[0].cells, words, compared=compared)})


def draw_differences(found: Sequence[Difference], panels: Sequence[Panel], words: Words) -> Drawing:
    """Heatmaps of differences between panels: text is difference ± half of its interval, bold outline where the interval excludes 0."""
    xs, ys = panels[0].cells.x, panels[0].cells.y
    bound = max((float(d.table["diff"].abs().max()) for d in found if len(d.table)), default=1.0) or 1.0
    spots = Spots.of(len(found), panels[0])
    figure = spots.figure([plain(d.title) for d in found])
    digits = decimals([h for d in found for h in d.table["half"]])
    for i, difference in enumerate(found):
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
        trace = heat(
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
        figure.add_trace(hatched([a for a, _ in missing], [b for _, b in missing], ["not in both"] * len(missing)), **spots.place(i))
        figure.add_trace(trace, **spots.place(i))
        outline = scatter(x=lines[0], y=lines[1], mode="lines", line={"color": MARK, "width": 1.8}, hoverinfo="skip", showlegend=False)
        figure.add_trace(outline, **spots.place(i))
        add_text(figure, texts, DIVERGING, **spots.place(i), size=11)
    unit = f" ({words.difference_unit})" if words.difference_unit else ""
    bar = bar_style(f"Difference<br>{unit.strip()}")
    colour = {"colorscale": DIVERGING, "cmin": -bound, "cmax": bound, "colorbar": bar}
    return _finish(figure, spots, [panels[0].cells] * len(found), colour)


@dataclass(frozen=True)
class Spots:
    """Where panels stand: as many beside each other as the page is wide, the rest below."""

    count: int
    rows: int
    columns: int
    cells: tuple[int, int]

    @staticmethod
    def of(count: int, first: Panel) -> Spots:
        """Spots for ``count`` panels of the first one's size."""
        across, up = len(first.cells.x.labels), len(first.cells.y.labels)
        columns = min(count, max(1, (PAGE - BESIDES) // (across * COMPACT_WIDTH + GAP)))
        return Spots(count, -(-count // columns), columns, (across, up))

    @property
    def width(self) -> int:
        """Least width in pixels."""
        return self.columns * (self.cells[0] * COMPACT_WIDTH + GAP) + BESIDES

    @property
    def height(self) -> int:
        """Height of the plots and what is between them, in pixels."""
        return self.rows * max(COMPACT_HEIGHT * self.cells[1], 160) + (self.rows - 1) * BETWEEN

    def place(self, i: int) -> dict[str, Any]:
        """Row and column of panel ``i``."""
        return {"row": i // self.columns + 1, "col": i % self.columns + 1}

    def figure(self, titles: Sequence[str]) -> Drawing:
        """An empty figure of these spots."""
        return Drawing(self.rows, self.columns, across=0.03, down=BETWEEN / self.height, titles=titles, shared="y")


def _finish(figure: Drawing, spots: Spots, shown: Sequence[Cells], coloraxis: dict[str, Any]) -> Drawing:
    margin = {"l": 80, "r": 16, "t": 36, "b": 64}
    styled(figure, spots.height + 100, margin=margin, barmode="overlay", coloraxis=coloraxis)
    for i, cells in enumerate(shown):
        level_axis(figure, "x", cells.x, **spots.place(i))
        level_axis(figure, "y", cells.y, **spots.place(i))
        if max(len(label) for label in cells.x.labels) <= 9:  # rotated only where it must be
            figure.update_xaxes(tickangle=0, tickfont={"size": 10}, **spots.place(i))
        if i + spots.columns < spots.count:
            figure.update_xaxes(title=None, **spots.place(i))
        if i % spots.columns:
            figure.update_yaxes(title=None, **spots.place(i))
    return figure
