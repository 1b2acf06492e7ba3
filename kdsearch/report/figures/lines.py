"""Figure 1: the objective against one parameter (teacher width), a line for each level of another (τ), with bands and single seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import Levels
from kdsearch.report.drawing import Drawing, scatter
from kdsearch.report.style import (
    DASHES,
    MUTED,
    SYMBOLS,
    Words,
    baseline_words,
    decimals,
    faint,
    line_colours,
    parameter_words,
    plain,
    short_words,
    styled,
)

DODGE = 0.012
"""Share of the axis by which neighbouring lines are moved apart, so that their dots and bands can be seen."""


def lines_table(cells: Cells) -> pd.DataFrame:
    """One row per point: the line's level, the position's level, ``n, mean, half, low, high``, and each seed's value in ``values``."""
    rows = []
    for cell in cells.table.to_dict("records"):
        if not cell["n"]:
            continue
        values = list(cells.values[(cell["xi"], cell["yi"])].values())
        kept = {k: cell[k] for k in ("n", "mean", "half", "low", "high")}
        rows.append({cells.x.name: cell["x"], cells.y.name: cell["y"], **kept, "values": " ".join(f"{v:.6g}" for v in values)})
    return pd.DataFrame(rows, columns=[cells.x.name, cells.y.name, "n", "mean", "half", "low", "high", "values"])


def teacher_table(frame: StudyFrame, levels: Levels) -> pd.DataFrame:
    """The teachers' own accuracy (percent) by level: ``level, index, n, mean, sd`` over distinct (configuration, seed) runs."""
    columns = ["level", "index", "n", "mean", "sd"]
    done = frame.finished
    if "m.teacher_accuracy" not in done or done["m.teacher_accuracy"].notna().sum() == 0:
        return pd.DataFrame(columns=columns)
    done = done.assign(index=levels.index(done)).dropna(subset=["m.teacher_accuracy"])
    # Teachers are shared by all trials of a seed and level: each counts once.
    unique = done[done["index"] >= 0].groupby(["index", "seed"])["m.teacher_accuracy"].mean().reset_index()
    found = unique.groupby("index")["m.teacher_accuracy"].agg(["count", "mean", "std"]).reset_index()
    found = found.rename(columns={"count": "n", "std": "sd"})
    found.insert(0, "level", [levels.labels[int(i)] for i in found["index"]])
    return found[columns]


def draw_lines(cells: Cells, words: Words, teachers: pd.DataFrame) -> Drawing:
    """Figure 1. The axis is logarithmic where the parameter is; the teachers' accuracy is a strip below, not a second axis."""
    strip = len(teachers) > 0
    figure = Drawing(rows=2, heights=[0.77, 0.23], down=0.05, shared="x") if strip else Drawing()
    positions, is_log = _positions(cells.y)
    digits = decimals(cells.table["half"].tolist())
    if cells.baseline is not None and cells.baseline.by_seed:
        _baseline(figure, cells, positions, is_log)
    colours = line_colours(len(cells.x.labels), cells.x.ordered)
    for i, label in enumerate(cells.x.labels):
        points = cells.table[(cells.table["xi"] == i) & (cells.table["n"] > 0)].sort_values("yi")
        if len(points):
            shift = (i - (len(cells.x.labels) - 1) / 2) * DODGE
            where = _dodged([positions[int(j)] for j in points["yi"]], positions, shift, is_log)
            _line(figure, cells, points, where, f"{plain(label)}", colours[i], i, words, digits)
    if strip:
        _strip(figure, teachers, positions)
    styled(figure, 540 if strip else 440, margin={"l": 76, "r": 24, "t": 48, "b": 64})
    figure.update_layout(legend={"title": {"text": f"{parameter_words(cells.x.name, cells.x.title)}  "}})
    bottom = 2 if strip else 1
    figure.update_xaxes(tickvals=positions, ticktext=[plain(t) for t in cells.y.labels], showgrid=False, range=_padded(positions, is_log))
    if is_log:
        figure.update_xaxes(type="log")
    figure.update_xaxes(title={"text": parameter_words(cells.y.name, cells.y.title) + (", log scale" if is_log else "")}, row=bottom, col=1)
    figure.update_yaxes(title={"text": words.axis}, row=1, col=1)
    if strip:
        figure.update_yaxes(title={"text": "Teacher (%)"}, nticks=4, row=2, col=1)
        figure.update_xaxes(showline=False, ticks="", row=1, col=1)
    return figure


def _positions(levels: Levels) -> tuple[list[float], bool]:
    if levels.numeric and len(levels.labels) > 1:
        log = levels.log and min(levels.numbers) > 0
        return list(levels.numbers), log
    return [float(i) for i in range(len(levels.labels))], False


def _dodged(where: list[float], positions: list[float], shift: float, is_log: bool) -> list[float]:
    if len(positions) < 2:
        return [w + shift for w in where]
    if is_log:
        span = math.log(max(positions) / min(positions))
        return [w * math.exp(shift * span) for w in where]
    span = max(positions) - min(positions)
    return [w + shift * span for w in where]


def _padded(positions: list[float], is_log: bool) -> list[float]:
    ends = [math.log10(min(positions)), math.log10(max(positions))] if is_log else [min(positions), max(positions)]
    pad = 0.08 * (ends[1] - ends[0]) or 0.5
    return [ends[0] - pad, ends[1] + pad]


def _line(
    figure: Drawing,
    cells: Cells,
    points: pd.DataFrame,
    where: list[float],
    name: str,
    colour: str,
    i: int,
    words: Words,
    digits: int,
) -> None:
    place = {"row": 1, "col": 1}
    common: dict[str, Any] = {"legendgroup": name, "hoverinfo": "skip", "showlegend": False}
    if points["half"].notna().any():
        x = where + where[::-1]
        y = points["high"].tolist() + points["low"].tolist()[::-1]
        fill = scatter(x=x, y=y, mode="lines", line={"width": 0}, fill="toself", fillcolor=faint(colour, 0.13), **common)
        figure.add_trace(fill, **place)
    dots_x: list[float] = []
    dots_y: list[float] = []
    for x0, yi in zip(where, points["yi"], strict=True):
        values = list(cells.values[(i, int(yi))].values())
        dots_x += [x0] * len(values)
        dots_y += values
    dots = scatter(x=dots_x, y=dots_y, mode="markers", marker={"size": 4, "color": faint(colour, 0.55)}, **common)
    figure.add_trace(dots, **place)
    hover = [
        f"{short_words(cells.x.name, cells.x.title)} {name}, {short_words(cells.y.name, cells.y.title)} {plain(p['y'])}<br>"
        f"<b>{p['mean']:.{digits}f}{_half(p['half'], digits)} {words.unit}</b>, n = {p['n']}"
        for p in points.to_dict("records")
    ]
    line = scatter(
        x=where,
        y=points["mean"].tolist(),
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": DASHES[i % len(DASHES)]},
        marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8, "color": colour},
        name=name,
        legendgroup=name,
        hovertext=hover,
        hoverinfo="text",
    )
    figure.add_trace(line, **place)


def _half(value: float, digits: int) -> str:
    return f" ± {value:.{digits}f}" if math.isfinite(value) else ""


def _baseline(figure: Drawing, cells: Cells, positions: list[float], is_log: bool) -> None:
    assert cells.baseline is not None
    low, high = _padded(positions, is_log)
    ends = (10**low, 10**high) if is_log else (low, high)
    mean, n = cells.baseline.mean, len(cells.baseline.by_seed)
    name = baseline_words(cells.baseline.name)
    own = cells.baseline.noise()
    half = (cells.noise if cells.noise.df > own.df else own).half_width(n)
    if math.isfinite(half):
        y = [mean - half, mean - half, mean + half, mean + half]
        band = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": faint(MUTED, 0.14), "legendgroup": "baseline"}
        figure.add_trace(scatter(x=[*ends, *ends[::-1]], y=y, hoverinfo="skip", showlegend=False, **band), row=1, col=1)
    x = np.geomspace(ends[0], ends[1], 30) if is_log else np.linspace(ends[0], ends[1], 30)
    hover = f"{name}: {mean:.3f}{_half(half, 3)}, n = {n}"
    line = {"color": MUTED, "width": 2, "dash": "dot"}
    trace = scatter(
        x=x.tolist(), y=[mean] * 30, mode="lines", line=line, name=name, legendgroup="baseline", hovertext=hover, hoverinfo="text"
    )
    figure.add_trace(trace, row=1, col=1)


def _strip(figure: Drawing, teachers: pd.DataFrame, positions: list[float]) -> None:
    x = [positions[int(i)] for i in teachers["index"]]
    spread = [0.0 if not math.isfinite(v) else v for v in teachers["sd"]]
    hover = [f"teacher {plain(r['level'])}: {r['mean']:.2f} %, SD {r['sd']:.2f}, n = {r['n']}" for r in teachers.to_dict("records")]
    trace = scatter(
        x=x,
        y=teachers["mean"].tolist(),
        error_y={"type": "data", "array": spread, "thickness": 1.4, "width": 4, "color": MUTED},
        mode="lines+markers",
        line={"color": MUTED, "width": 1.5},
        marker={"symbol": "diamond", "size": 8, "color": MUTED},
        hovertext=hover,
        hoverinfo="text",
        showlegend=False,
    )
    figure.add_trace(trace, row=2, col=1)
