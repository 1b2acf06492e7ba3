"""Heatmaps of two parameters: the difference to the baseline (figure 2), and its companion of counts and interval widths (figure 3).

Cells are evenly spaced and ordered; nothing is interpolated. What was not run is hatched, never coloured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdsearch.analysis.cells import FEW, Cells
from kdsearch.analysis.levels import Levels
from kdsearch.report.drawing import Drawing, bar, heat, scatter
from kdsearch.report.style import (
    DIVERGING,
    INK,
    MARK,
    MUTED,
    PRUNED,
    SEQUENTIAL,
    Words,
    baseline_words,
    decimals,
    parameter_words,
    plain,
    signed,
    styled,
)

CELL_WIDTH, CELL_HEIGHT = 96, 54
"""Pixels that a cell's two lines of text need."""


def heatmap_table(cells: Cells) -> pd.DataFrame:
    """The heatmap's numbers, one row per cell: texts of both levels, counts, mean with interval, difference with interval, status."""
    columns = {"x": cells.x.name, "y": cells.y.name}
    kept = ["n", "seeds", "configs", "mean", "sd", "half", "low", "high", "diff", "diff_half", "diff_low", "diff_high", "paired"]
    kept += ["pruned", "failed", "running", "status", "best", "tied"]
    return cells.table[["x", "y", *kept]].rename(columns=columns)


def colour_range(cells: Cells) -> float:
    """Largest absolute difference to the baseline, for a scale centred at 0; at least the smallest positive number."""
    found = cells.table["diff"].abs().max()
    return float(found) if math.isfinite(found) and found > 0 else 1.0


def draw_heatmap(cells: Cells, words: Words, *, limit: float | None = None) -> Drawing:
    """Figure 2. ``limit`` fixes the colour range (± in the objective's unit), so that several heatmaps compare."""
    figure = Drawing()
    add_heatmap(figure, cells, words, limit=limit)
    legend = _legend(figure, cells)
    height = max(CELL_HEIGHT * len(cells.y.labels), 190) + 118 + 34 * legend
    styled(figure, height, margin={"l": 80, "r": 16, "t": 12 + 34 * legend, "b": 64}, barmode="overlay")
    level_axis(figure, "x", cells.x)
    level_axis(figure, "y", cells.y)
    return figure


def natural_width(columns: int, panels: int = 1, cell: int = CELL_WIDTH) -> tuple[int, int]:
    """Least and largest sensible width in pixels of heatmaps with that many columns side by side."""
    least = panels * (columns * cell + 24) + 180
    return least, max(min(round(least * 1.35), 1180), least)


def add_heatmap(
    figure: Drawing,
    cells: Cells,
    words: Words,
    *,
    limit: float | None = None,
    row: int = 1,
    col: int = 1,
    coloraxis: str | None = None,
    compared: bool | None = None,
    compact: bool = False,
    means: tuple[float, float] | None = None,
) -> None:
    """Add the traces of one heatmap to a figure (a subplot where ``row`` and ``col`` are given).

    ``compared`` says whether colour is the difference to the baseline; default: where there is one. ``compact`` writes three narrow lines.
    ``means`` is the colour range of plain means where several heatmaps share it.
    """
    has_baseline = bool(cells.table["diff"].notna().any()) if compared is None else compared
    z = cells.matrix("diff" if has_baseline else "mean")
    digits = decimals(cells.table["half"].tolist())
    text, hover = _texts(cells, words, digits, "<br>±" if compact else " ±")
    bound = limit if limit is not None else colour_range(cells)
    colour: dict[str, Any]
    if coloraxis:
        colour = {"coloraxis": coloraxis}
    elif has_baseline:
        colour = {"colorscale": DIVERGING, "zmin": -bound, "zmax": bound, "colorbar": colour_bar(cells, words)}
    else:
        colour = {"colorscale": SEQUENTIAL, "colorbar": colour_bar(cells, words)}
    figure.add_trace(not_run(cells), row, col)
    figure.add_trace(
        heat(
            x=list(range(len(cells.x.labels))),
            y=list(range(len(cells.y.labels))),
            z=z,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            xgap=2,
            ygap=2,
            hoverongaps=False,
            showlegend=False,
            **colour,
        ),
        row,
        col,
    )
    for trace in _marks(cells):
        figure.add_trace(trace, row, col)
    ends = (-bound, bound) if has_baseline else means or _ends(z)
    middle, span = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2 or 1.0
    written = [(a, b, text[b][a], (z[b][a] - middle) / span) for b in range(len(z)) for a in range(len(z[0])) if text[b][a]]
    add_text(figure, written, DIVERGING if has_baseline else SEQUENTIAL, row=row, col=col, size=11 if compact else 12)


def _ends(z: np.ndarray) -> tuple[float, float]:
    return (float(np.nanmin(z)), float(np.nanmax(z))) if np.isfinite(z).any() else (0.0, 1.0)


def add_text(
    figure: Drawing,
    texts: Sequence[tuple[int, int, str, float]],
    scale: list[list[Any]],
    row: int = 1,
    col: int = 1,
    size: int = 12,
) -> None:
    """Write texts ``(x, y, text, where its cell's colour lies from −1 to 1)`` in black or white, whichever reads on that colour."""
    for dark in (False, True):
        mine = [t for t in texts if (_luminance(scale, t[3]) < 0.18) == dark]
        if mine:
            trace = scatter(
                x=[t[0] for t in mine],
                y=[t[1] for t in mine],
                text=[t[2] for t in mine],
                mode="text",
                textfont={"size": size, "color": "#ffffff" if dark else MARK},
                hoverinfo="skip",
                showlegend=False,
            )
            figure.add_trace(trace, row, col)


def _luminance(scale: list[list[Any]], where: float) -> float:
    """Relative luminance (0 to 1, WCAG 2) of a colour scale at ``where`` from −1 to 1; below 0.18 white reads better than black on it."""
    position = min(max((where + 1) / 2, 0.0), 1.0) if math.isfinite(where) else 0.5
    stops = [stop for stop, _ in scale]
    channels = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for _, colour in scale]
    rgb = [float(np.interp(position, stops, [c[i] for c in channels])) for i in range(3)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colour_bar(cells: Cells, words: Words, *, compared: bool = True) -> dict[str, Any]:
    """Colour bar of a heatmap: what its colour is, with the unit."""
    unit = f"<br>({words.difference_unit})" if words.difference_unit else ""
    title = words.axis.replace(" (", "<br>(")
    if compared and cells.baseline is not None:
        title = f"Difference to<br>{baseline_words(cells.baseline.name)}{unit}"
    return bar_style(title)


def bar_style(title: str) -> dict[str, Any]:
    """A colour bar beside the top of the plot, its title above it in short lines."""
    place = {"y": 1.0, "yanchor": "top", "lenmode": "pixels", "len": 190}
    look = {"thickness": 14, "outlinewidth": 0, "ticks": "outside", "nticks": 6}
    # The empty line keeps the title off the topmost tick.
    return {"title": {"text": f"{title}<br>&nbsp;", "side": "top", "font": {"size": 11}}, **look, **place}


def _texts(cells: Cells, words: Words, digits: int, between: str) -> tuple[list[list[str]], list[list[str]]]:
    shape = (len(cells.y.labels), len(cells.x.labels))
    text = np.full(shape, "", dtype=object)
    hover = np.full(shape, "", dtype=object)
    unit = "n" if cells.unit == "seed" else "configurations"
    for cell in cells.table.to_dict("records"):
        place = (cell["yi"], cell["xi"])
        lines = [_where(cells, cell["x"], cell["y"])]
        if cell["n"]:
            half = f" ± {cell['half']:.{digits}f}" if math.isfinite(cell["half"]) else ""
            text[place] = f"{cell['mean']:.{digits}f}{half}<br>n = {cell['n']}".replace(" ±", between)
            lines.append(f"<b>{cell['mean']:.{digits}f}{half} {words.unit}</b>, {unit} = {cell['n']}, seeds {cell['seeds']}")
            if math.isfinite(cell["diff"]):
                change = f"{signed(cell['diff'], digits)}" + (
                    f" ± {cell['diff_half']:.{digits}f}" if math.isfinite(cell["diff_half"]) else ""
                )
                lines.append(f"to baseline: {change} {words.difference_unit}" + (" (paired by seed)" if cell["paired"] else ""))
            lines += ["not told apart from the best"] * bool(cell["tied"] and not cell["best"]) + ["best mean"] * bool(cell["best"])
        lines += [f"{cell[name]} {name}" for name in ("pruned", "failed", "running") if cell[name]]
        hover[place] = "<br>".join(lines)
    return text.tolist(), hover.tolist()


def _where(cells: Cells, x: object, y: object) -> str:
    """Which cell, in two lines of hover text."""
    return f"{parameter_words(cells.x.name, cells.x.title)}: {plain(x)}<br>{parameter_words(cells.y.name, cells.y.title)}: {plain(y)}"


def not_run(cells: Cells) -> dict[str, Any]:
    """Hatched squares for every cell without a value."""
    empty = cells.table[cells.table["n"] == 0]
    label = {"not run": "not run"}
    hover = [
        f"{_where(cells, c['x'], c['y'])}<br>"
        + (label.get(c["status"]) or f"no value: {c['pruned']} pruned, {c['failed']} failed, {c['running']} running")
        for c in empty.to_dict("records")
    ]
    return hatched(empty["xi"].tolist(), empty["yi"].tolist(), hover)


def hatched(x: Sequence[int], y: Sequence[int], hover: Sequence[str]) -> dict[str, Any]:
    """Hatched squares at cells ``(x, y)``."""
    return bar(
        x=list(x),
        y=[0.94] * len(y),
        base=[v - 0.47 for v in y],
        width=0.96,
        marker={
            "color": "rgba(0,0,0,0)",
            "line": {"width": 0},
            "pattern": {"shape": "/", "fgcolor": "#9aa1ab", "size": 7, "solidity": 0.18},
        },
        hovertext=list(hover),
        hoverinfo="text",
        name="no value",
        showlegend=False,
    )


def _marks(cells: Cells) -> list[dict[str, Any]]:
    table = cells.table
    traces = []
    for chosen, width, name in (
        (table[table["tied"] & ~table["best"]], 2.0, "tied"),
        (table[table["best"]], 4.0, "best"),
    ):
        if len(chosen):
            x, y = _outlines(chosen)
            line = {"color": MARK, "width": width}
            traces.append(scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip", showlegend=False))
    corner = {"mode": "markers", "hoverinfo": "skip", "showlegend": False}
    few = table[(table["n"] > 0) & (table["n"] < FEW)]
    if len(few):
        marker = {"symbol": "triangle-up", "size": 8, "color": "#ffffff", "line": {"width": 1.4, "color": MARK}}
        traces.append(scatter(x=few["xi"] + 0.35, y=few["yi"] + 0.28, marker=marker, name="few", **corner))
    cut = table[table["pruned"] > 0]
    if len(cut):
        marker = {"symbol": "x", "size": 8, "color": PRUNED, "line": {"width": 1, "color": "#ffffff"}}
        traces.append(scatter(x=cut["xi"] - 0.35, y=cut["yi"] + 0.28, marker=marker, name="pruned", **corner))
    lost = table[table["failed"] > 0]
    if len(lost):
        marker = {"symbol": "circle", "size": 7, "color": "#b23a48"}
        traces.append(scatter(x=lost["xi"] - 0.35, y=lost["yi"] - 0.28, marker=marker, name="failed", **corner))
    return traces


def _outlines(chosen: pd.DataFrame) -> tuple[list[float | None], list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    for xi, yi in zip(chosen["xi"], chosen["yi"], strict=True):
        left, right, low, high = xi - 0.45, xi + 0.45, yi - 0.44, yi + 0.44
        x += [left, right, right, left, left, None]
        y += [low, low, high, high, low, None]
    return x, y


def _legend(figure: Drawing, cells: Cells) -> bool:
    """Legend entries for the marks that occur; whether there are any."""
    table = cells.table
    square = {"size": 14, "color": "rgba(0,0,0,0)"}
    entries: list[tuple[bool, str, dict[str, Any]]] = [
        (bool(table["best"].any()), "best mean", {"symbol": "square", **square, "line": {"width": 3.5, "color": INK}}),
        (
            bool((table["tied"] & ~table["best"]).any()),
            "not told apart from the best",
            {"symbol": "square", **square, "line": {"width": 1.6, "color": INK}},
        ),
        (
            bool(table["n"].between(1, FEW - 1).any()),
            f"n < {FEW}",
            {"symbol": "triangle-up", "size": 8, "color": "#ffffff", "line": {"width": 1.4, "color": MARK}},
        ),
        (bool((table["pruned"] > 0).any()), "pruned trials", {"symbol": "x", "size": 8, "color": PRUNED, "line": {"width": 0}}),
        (bool((table["failed"] > 0).any()), "failed trials", {"symbol": "circle", "size": 8, "color": "#b23a48"}),
    ]
    shown = False
    for occurs, name, marker in entries:
        if occurs:
            figure.add_trace(scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, showlegend=True))
            shown = True
    if bool((table["n"] == 0).any()):
        pattern = {"shape": "/", "fgcolor": "#9aa1ab", "size": 5, "solidity": 0.25}
        marker = {"color": "rgba(0,0,0,0)", "pattern": pattern, "line": {"width": 1, "color": MUTED}}
        figure.add_trace(bar(x=[None], y=[None], marker=marker, name="no value", showlegend=True))
        shown = True
    return shown


def level_axis(figure: Drawing, which: str, levels: Levels, **where: Any) -> None:
    """An axis of evenly spaced levels."""
    update = figure.update_xaxes if which == "x" else figure.update_yaxes
    update(
        tickmode="array",
        tickvals=list(range(len(levels.labels))),
        ticktext=[plain(label) for label in levels.labels],
        title={"text": parameter_words(levels.name, levels.title)},
        range=[-0.5, len(levels.labels) - 0.5],
        showgrid=False,
        fixedrange=True,
        ticks="",
        showline=False,
        **where,
    )


def companion_table(cells: Cells) -> pd.DataFrame:
    """Counts and interval widths, one row per cell; ``interval_width`` is high − low, in the objective's unit."""
    table = cells.table[["x", "y", "n", "seeds", "runs", "configs", "pruned", "failed", "sd"]].copy()
    table["interval_width"] = 2 * cells.table["half"]
    return table.rename(columns={"x": cells.x.name, "y": cells.y.name})


def draw_companion(cells: Cells, words: Words) -> Drawing:
    """Figure 3: how many values each cell rests on, and how wide its interval is."""
    counted = "seeds" if cells.unit == "seed" else "configurations"
    unit = f" ({words.difference_unit})" if words.difference_unit else ""
    titles = (f"n ({counted})", f"width of the 95% interval{unit}")
    figure = Drawing(cols=2, across=0.04, titles=titles, shared="y")
    digits = decimals(cells.table["half"].tolist())
    widths = 2 * cells.matrix("half")
    counts = cells.matrix("n")
    for col, z, form in ((1, counts, ".0f"), (2, widths, f".{digits}f")):
        shown = np.where(counts > 0, z, math.nan)
        text = [
            [f"{v:{form}}" if math.isfinite(v) else "–" * bool(n) for v, n in zip(*pair, strict=True)]
            for pair in zip(shown, counts, strict=True)
        ]
        top = float(np.nanmax(shown)) if np.isfinite(shown).any() else 1.0
        figure.add_trace(not_run(cells), row=1, col=col)
        figure.add_trace(
            heat(
                x=list(range(len(cells.x.labels))),
                y=list(range(len(cells.y.labels))),
                z=shown,
                customdata=text,
                hovertemplate=f"{titles[col - 1]}: %{{customdata}}<extra></extra>",
                colorscale=SEQUENTIAL,
                zmin=0,
                zmax=1.5 * top,
                showscale=False,
                xgap=2,
                ygap=2,
                hoverongaps=False,
            ),
            row=1,
            col=col,
        )
        spots = [
            (a, b, text[b][a], 2 * shown[b][a] / (1.5 * top or 1.0) - 1)
            for b in range(len(text))
            for a in range(len(text[0]))
            if text[b][a]
        ]
        add_text(figure, spots, SEQUENTIAL, row=1, col=col)
    styled(figure, max(38 * len(cells.y.labels), 90) + 112, margin={"l": 80, "r": 16, "t": 36, "b": 64}, barmode="overlay")
    for col in (1, 2):
        level_axis(figure, "x", cells.x, row=1, col=col)
        level_axis(figure, "y", cells.y, row=1, col=col)
    figure.update_yaxes(title=None, row=1, col=2)
    return figure
