"""Figure 6: strength of each parameter and pair with its interval, and the share of noise."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kdsearch.analysis.effects import RESIDUAL, SEED, Effects
from kdsearch.report.drawing import Drawing, bar, scatter
from kdsearch.report.style import ACCENT, MUTED, base, plain

MOST = 12
"""Effects drawn; the table has all."""
KINDS = {"parameter": ACCENT, "pair": "#d4702c", "seeds and noise": MUTED}


def strength_table(found: Effects) -> pd.DataFrame:
    """The analysis of variance: ``effect, kind, share, low, high, eta2, ss, df, f, p``; shares are ε², in percent of variance."""
    table = found.table.copy()
    table["kind"] = table["order"].map({0: "seeds and noise", 1: "parameter", 2: "pair", 3: "pair"})
    for column in ("share", "low", "high", "eta2"):
        table[column] = 100 * table[column]
    return table[["effect", "kind", "share", "low", "high", "eta2", "ss", "df", "f", "p"]]


def draw_strength(table: pd.DataFrame, axis: str, *, percent: bool = True) -> Drawing:
    """Horizontal bars with 95% intervals, strongest on top; ``table`` needs ``effect, kind, share, low, high``, in percent or plain."""
    noise = table[table["effect"].isin([SEED, RESIDUAL])]
    rest = table[~table["effect"].isin([SEED, RESIDUAL])].head(MOST)
    shown = pd.concat([rest, noise])
    order = [plain(e) for e in shown["effect"]][::-1]
    longest = max((len(e) for e in order), default=8)
    figure = base(30 * len(shown) + 112, margin={"l": min(40 + 7 * longest, 300), "r": 56, "t": 44, "b": 60}, bargap=0.35)
    for kind, colour in KINDS.items():
        mine = shown[shown["kind"] == kind]
        if mine.empty:
            continue
        up, down = mine["high"] - mine["share"], mine["share"] - mine["low"]
        hover = [
            f"{plain(r['effect'])}: {_text(r['share'], percent)} [{_text(r['low'], percent)}, {_text(r['high'], percent)}]"
            for r in mine.to_dict("records")
        ]
        error = {
            "type": "data",
            "symmetric": False,
            "array": up.clip(lower=0),
            "arrayminus": down.clip(lower=0),
            "thickness": 1.5,
            "color": "#6b7280",
        }
        look: dict[str, Any] = {"orientation": "h", "marker": {"color": colour}, "error_x": error, "name": kind}
        figure.add_trace(bar(x=mine["share"], y=[plain(e) for e in mine["effect"]], hovertext=hover, hoverinfo="text", **look))
    right = max(float(shown["high"].max()), 5.0 if percent else 0.05) if len(shown) else 1.0
    # Numbers stand right of the interval, where no bar reaches.
    spots = [h + 0.012 * right for h in shown[["high", "share"]].max(axis=1)]
    text = [_text(v, percent) for v in shown["share"]]
    look = {"mode": "text", "textposition": "middle right", "textfont": {"size": 12}, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(scatter(x=spots, y=[plain(e) for e in shown["effect"]], text=text, **look))
    figure.update_xaxes(title={"text": axis}, range=[0, right * 1.1], ticksuffix="%" if percent else "")
    figure.update_layout(showlegend=shown["kind"].nunique() > 1)
    figure.update_yaxes(categoryorder="array", categoryarray=order, showgrid=False, ticks="", title=None)
    return figure


def _text(value: float, percent: bool) -> str:
    return (f"{value:.0f}%" if value >= 9.5 else f"{value:.1f}%") if percent else f"{value:.2f}"
