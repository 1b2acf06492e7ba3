"""Figure 9: learning curves with pruning marks, and the course of the search."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from kdsearch.analysis.frame import StudyFrame
from kdsearch.report.drawing import Drawing, scatter
from kdsearch.report.style import ACCENT, INK, PRUNED, Words, base, faint, plain

DRAWN_AT_MOST = 150
"""Single curves drawn per kind; the table holds all of them."""
ENOUGH = 20
"""Values from which the axis leaves out the lowest 2%."""


def curves_table(frame: StudyFrame) -> pd.DataFrame:
    """Every reported epoch of every trial's first seed: ``number, config, state, epoch, value``."""
    return frame.curves.reset_index(drop=True)


def draw_curves(frame: StudyFrame, words: Words) -> Drawing:
    """Learning curves: finished trials thin, their median and middle 80% strong, pruned ones to the epoch where they were cut."""
    figure = base(430, margin={"l": 72, "r": 24, "t": 48, "b": 60})
    curves = frame.curves
    done, cut = curves[curves["state"] == "COMPLETE"], curves[curves["state"] == "PRUNED"]
    _spaghetti(figure, cut, faint(PRUNED, 0.35), "pruned")
    _spaghetti(figure, done, faint(ACCENT, 0.22), "finished")
    if done["number"].nunique() >= 5:
        by = done.groupby("epoch")["value"]
        enough = by.count() >= 0.5 * done["number"].nunique()
        middle, low, high = (by.quantile(q)[enough] for q in (0.5, 0.1, 0.9))
        epochs = middle.index.tolist()
        band = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": faint(ACCENT, 0.2), "hoverinfo": "skip"}
        figure.add_trace(scatter(x=epochs + epochs[::-1], y=high.tolist() + low.tolist()[::-1], name="middle 80%", **band))
        line = {"color": ACCENT, "width": 3}
        figure.add_trace(scatter(x=epochs, y=middle.tolist(), mode="lines", line=line, name="median of finished"))
    last = cut.sort_values("epoch").groupby("number").tail(1)
    if len(last):
        hover = [f"trial {r['number']} pruned after epoch {r['epoch']}<br>{plain(r['config'])}" for r in last.to_dict("records")]
        marker = {"symbol": "x-thin", "size": 8, "line": {"width": 1.8, "color": PRUNED}}
        figure.add_trace(
            scatter(x=last["epoch"], y=last["value"], mode="markers", marker=marker, hovertext=hover, hoverinfo="text", name="cut here")
        )
    best = frame.configs.head(1)
    if len(best):
        top = done[done["config"] == best["config"].iloc[0]]
        top = top[top["number"] == top["number"].min()]
        line = {"color": INK, "width": 2, "dash": "dot"}
        figure.add_trace(scatter(x=top["epoch"], y=top["value"], mode="lines", line=line, name="best configuration"))
    figure.update_xaxes(title={"text": "Epoch"}, rangemode="tozero")
    figure.update_yaxes(title={"text": words.axis}, range=_robust(curves["value"]))
    return figure


def _spaghetti(figure: Drawing, curves: pd.DataFrame, colour: str, name: str) -> None:
    numbers = curves["number"].unique()
    if len(numbers) == 0:
        return
    if len(numbers) > DRAWN_AT_MOST:  # evenly over the study's course, so that early and late trials both show
        numbers = numbers[np.linspace(0, len(numbers) - 1, DRAWN_AT_MOST).astype(int)]
    x: list[float | None] = []
    y: list[float | None] = []
    for _, curve in curves[curves["number"].isin(numbers)].sort_values("epoch").groupby("number"):
        x += [*curve["epoch"].tolist(), None]
        y += [*curve["value"].tolist(), None]
    line = {"color": colour, "width": 1}
    figure.add_trace(scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip"))


def _robust(values: pd.Series) -> list[float] | None:
    """Axis range that a few diverged curves cannot squeeze: 2nd percentile to the largest, with a margin."""
    finite = values[np.isfinite(values.astype(float))]
    if len(finite) < ENOUGH:
        return None
    low, high = float(finite.quantile(0.02)), float(finite.max())
    pad = 0.05 * (high - low)
    return [low - pad, high + pad] if pad > 0 else None


def history_table(frame: StudyFrame) -> pd.DataFrame:
    """One row per trial in order: ``number, state, config, value`` (mean over seeds; NaN unless finished), ``best`` so far."""
    rows = frame.search.sort_values("number")
    by = rows.groupby("number")
    table = pd.DataFrame({"state": by["state"].first(), "config": by["config"].first(), "value": by["value"].mean()}).reset_index()
    table.loc[table["state"] != "COMPLETE", "value"] = math.nan
    running = table["value"].cummax() if frame.maximize else table["value"].cummin()
    table["best"] = running.ffill()
    return table[["number", "state", "config", "value", "best"]]


def draw_history(frame: StudyFrame, words: Words) -> Drawing:
    """The search's course: each finished trial, the best so far, and ticks at the bottom where a trial was pruned or failed."""
    figure = base(360, margin={"l": 72, "r": 24, "t": 48, "b": 60})
    table = history_table(frame)
    done = table[table["value"].notna()]
    hover = [f"trial {r['number']}: {r['value']:.4g} {words.unit}<br>{plain(r['config'])}" for r in done.to_dict("records")]
    marker = {"size": 6, "color": faint(ACCENT, 0.6)}
    figure.add_trace(
        scatter(x=done["number"], y=done["value"], mode="markers", marker=marker, hovertext=hover, hoverinfo="text", name="finished trial")
    )
    line = {"color": INK, "width": 2, "shape": "hv"}
    figure.add_trace(scatter(x=table["number"], y=table["best"], mode="lines", line=line, name="best so far", hoverinfo="skip"))
    for state, colour, symbol, height in (("PRUNED", PRUNED, "line-ns", 0.012), ("FAIL", "#b23a48", "x-thin", 0.05)):
        chosen = table[table["state"] == state]
        if len(chosen):
            text = [f"trial {r['number']}: {state.lower()}<br>{plain(r['config'])}" for r in chosen.to_dict("records")]
            marker = {"symbol": symbol, "size": 9, "line": {"width": 1.4, "color": colour}}
            name = {"PRUNED": "pruned (no value)", "FAIL": "failed"}[state]
            figure.add_trace(
                scatter(
                    x=chosen["number"],
                    y=[height] * len(chosen),
                    yaxis="y2",
                    mode="markers",
                    marker=marker,
                    hovertext=text,
                    hoverinfo="text",
                    name=name,
                )
            )
    figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    figure.update_xaxes(title={"text": "Trial"})
    figure.update_layout(yaxis={"title": {"text": words.axis}})
    return figure
