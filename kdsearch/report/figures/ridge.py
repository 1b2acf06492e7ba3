"""Figure 5: the best level of one parameter (teacher width) for each level of another (τ), with its bootstrap interval."""

from __future__ import annotations

import math

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.ridge import Ridge
from kdsearch.report.drawing import Drawing, scatter
from kdsearch.report.style import ACCENT, base, parameter_words, plain, short_words


def draw_ridge(found: Ridge, cells: Cells) -> Drawing:
    """Points at the best level, bars over the 95% interval; beside each point the share of draws that agree. Levels evenly spaced."""
    figure = base(max(300, 46 * len(cells.y.labels) + 130), margin={"l": 80, "r": 32, "t": 24, "b": 64})
    x, y = found.table["xi"].tolist(), found.table["yi"].tolist()
    known = (found.table["low_i"] >= 0).tolist()
    up = [h - b if k else 0 for h, b, k in zip(found.table["high_i"], y, known, strict=True)]
    down = [b - low if k else 0 for low, b, k in zip(found.table["low_i"], y, known, strict=True)]
    hover = [
        f"{short_words(cells.x.name, cells.x.title)} {plain(r['x'])}: best {short_words(cells.y.name, cells.y.title)} {plain(r['best'])}"
        + (f"<br>95% of draws from {plain(r['low'])} to {plain(r['high'])}; {r['share']:.0%} agree" if r["low"] else "<br>no interval")
        for r in found.table.to_dict("records")
    ]
    figure.add_trace(
        scatter(
            x=x,
            y=y,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": up,
                "arrayminus": down,
                "thickness": 5,
                "width": 0,
                "color": "rgba(47,109,179,0.3)",
            },
            mode="markers",
            marker={"size": 12, "color": ACCENT},
            hovertext=hover,
            hoverinfo="text",
            showlegend=False,
        )
    )
    shares = [f"{v:.0%}" if math.isfinite(v) else "" for v in found.table["share"]]
    spots = [i + 0.09 for i in x]
    look = {"mode": "text", "textposition": "middle right", "textfont": {"size": 12}, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(scatter(x=spots, y=y, text=shares, **look))
    for update, levels in ((figure.update_xaxes, cells.x), (figure.update_yaxes, cells.y)):
        update(
            tickvals=list(range(len(levels.labels))),
            ticktext=[plain(label) for label in levels.labels],
            range=[-0.5, len(levels.labels) - 0.4],
            title={"text": parameter_words(levels.name, levels.title)},
        )
    return figure
