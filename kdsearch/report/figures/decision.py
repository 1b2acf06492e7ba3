"""Figure 8: decision. Cost against the objective, the Pareto front, P(best), and the cheapest that is as good as can be told."""

from __future__ import annotations

import math

import pandas as pd

from kdsearch.analysis.frame import readable
from kdsearch.analysis.select import COSTS, Candidates, cheapest_as_good
from kdsearch.report.drawing import Drawing, scatter
from kdsearch.report.style import ACCENT, INK, MUTED, Words, faint, plain, styled

SHOWN = 10
"""Configurations in the ranking; the table has all."""


def decision_table(found: Candidates) -> pd.DataFrame:
    """All configurations, best first: ``rank, config, n``, ``mean`` with its interval, ``p_best, tied``, ``difference, cost, on_front``."""
    kept = ["config", "n", "mean", "half", "low", "high", "p_best", "tied", "difference", "difference_half", "cost", "on_front"]
    table = found.table[kept].copy()
    table.insert(0, "rank", range(1, len(table) + 1))
    return table


def draw_decision(found: Candidates, words: Words) -> Drawing:
    """Left: cost against the objective (where a cost differs); right: the best configurations with intervals and P(best)."""
    costly = found.cost_name is not None
    longest = max((len(line) for config in found.table["config"].head(SHOWN) for line in _brief(config).split("<br>")), default=0)
    spacing = min(max(0.12, (5.4 * longest + 40) / 960), 0.32)
    figure = Drawing(cols=2, widths=[0.46, 0.54], across=spacing) if costly else Drawing()
    if costly:
        _costs(figure, found, words)
    ranked = found.table.head(SHOWN).iloc[::-1]
    col = 2 if costly else 1
    places = list(range(len(ranked)))
    hover = [_hover(r, words) for r in _records(ranked)]
    known = bool(ranked["half"].notna().any())
    error = {
        "type": "data",
        "array": [0 if not math.isfinite(h) else h for h in ranked["half"]],
        "thickness": 1.6,
        "width": 4,
        "color": MUTED,
        "visible": known,
    }
    colours = [ACCENT if tied or not known else faint(MUTED, 0.7) for tied in ranked["tied"]]
    look = {"mode": "markers", "marker": {"size": 9, "color": colours}, "showlegend": False}
    figure.add_trace(scatter(x=ranked["mean"], y=places, error_x=error, hovertext=hover, hoverinfo="text", **look), row=1, col=col)
    height = max(400, 34 * len(ranked) + 110)
    styled(figure, height, margin={"l": 72, "r": 96, "t": 52, "b": 60})
    figure.update_xaxes(title={"text": words.axis}, row=1, col=col)
    ticks = [_brief(config) for config in ranked["config"]]
    figure.update_yaxes(
        range=[-0.6, len(ranked) - 0.4], tickvals=places, ticktext=ticks, showgrid=False, ticks="", tickfont={"size": 11}, row=1, col=col
    )
    for place, p in zip(places, ranked["p_best"], strict=True):
        if math.isfinite(p):
            text = f"{p:.0%}" if p >= 0.005 else "<1%"
            spot = {"x": 1.0, "xref": "paper", "xanchor": "left", "y": place, "yref": f"y{col if col > 1 else ''}", "xshift": 14}
            figure.add_annotation(text=plain(text), showarrow=False, font={"size": 12, "color": INK}, **spot)
    if ranked["p_best"].notna().any():
        figure.add_annotation(
            text="P(best)", x=1.0, xref="paper", xanchor="left", xshift=10, y=1.0, yref="paper", yanchor="bottom", yshift=4, showarrow=False
        )
    return figure


def _brief(config: str) -> str:
    """The configuration's values in at most two lines of about 32 characters, for a tick."""
    words, lines = readable(config).split(", "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 40 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]}, {word}" if lines[-1] else word
    if len(lines) > 2:
        lines = [lines[0], lines[1][:40] + "…"]
    return "<br>".join(plain(line) for line in lines)


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _hover(row: dict[str, object], words: Words) -> str:
    half, p = float(str(row["half"])), float(str(row["p_best"]))
    spread = f" ± {half:.3g}" if math.isfinite(half) else ""
    sure = f"<br>P(best) {p:.1%}" if math.isfinite(p) else ""
    tied = "<br>not told apart from the best" if row["tied"] else ""
    return f"{plain(row['config'])}<br><b>{float(str(row['mean'])):.4g}{spread} {words.unit}</b>, n = {row['n']}{sure}{tied}"


def _costs(figure: Drawing, found: Candidates, words: Words) -> None:
    table = found.table[found.table["cost"].notna()]
    front = table[table["on_front"]].sort_values("cost")
    line = {"color": MUTED, "width": 1.5, "shape": "hv", "dash": "dot"}
    figure.add_trace(
        scatter(x=front["cost"], y=front["mean"], mode="lines", line=line, name="Pareto front", hoverinfo="skip"), row=1, col=1
    )
    for tied, name, colour in ((False, "told apart from the best", faint("#6b7280", 0.55)), (True, "not told apart from the best", ACCENT)):
        mine = table[table["tied"] == tied] if found.can_tell else table[:0] if tied else table
        colour = colour if found.can_tell else ACCENT
        if len(mine):
            hover = [_hover(r, words) for r in _records(mine)]
            marker = {"size": 8, "color": colour}
            told = {"hovertext": hover, "hoverinfo": "text", "showlegend": found.can_tell}
            name = name if found.can_tell else "configurations"
            figure.add_trace(scatter(x=mine["cost"], y=mine["mean"], mode="markers", marker=marker, name=name, **told), row=1, col=1)
    cheapest = cheapest_as_good(found)
    if cheapest is not None:
        marker = {"symbol": "circle-open", "size": 17, "color": "#d4702c", "line": {"width": 2.5}}
        trace = scatter(
            x=[cheapest["cost"]], y=[cheapest["mean"]], mode="markers", marker=marker, name="cheapest of these", hoverinfo="skip"
        )
        figure.add_trace(trace, row=1, col=1)
    title = COSTS[str(found.cost_name)]
    positive = bool((table["cost"] > 0).all()) and float(table["cost"].max()) > 8 * float(table["cost"].min())
    figure.update_xaxes(title={"text": title[0].upper() + title[1:] + (", log scale" if positive else "")}, row=1, col=1)
    if positive:
        figure.update_xaxes(type="log", row=1, col=1)
    figure.update_yaxes(title={"text": words.axis}, row=1, col=1)
