"""Figures as plotly.js reads them, in plain data.

plotly's own classes check every property of every trace, which takes longer than all else in a report; :meth:`Drawing.plotly` makes one
where one is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Traces, each from plotly.js's properties of its type.
scatter = partial(dict[str, Any], type="scatter")
bar = partial(dict[str, Any], type="bar")
heat = partial(dict[str, Any], type="heatmap")


class Drawing:
    """One figure: ``traces`` and ``layout``, on a grid of subplots whose rows and columns count from 1 at the top left.

    ``widths`` and ``heights`` are relative, ``across`` and ``down`` the gaps between subplots as shares of the whole. ``shared`` axes
    (``x`` within a column, ``y`` within a row) move together and have their labels once.
    """

    def __init__(
        self,
        rows: int = 1,
        cols: int = 1,
        *,
        widths: Sequence[float] = (),
        heights: Sequence[float] = (),
        across: float = 0.0,
        down: float = 0.0,
        titles: Sequence[str] = (),
        shared: str = "",
    ) -> None:
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {}
        self._cols = cols
        columns = _spans(widths or [1.0] * cols, across)
        lines = [(1 - high, 1 - low) for low, high in _spans(heights or [1.0] * rows, down)]
        for row in range(1, rows + 1):
            for col in range(1, cols + 1):
                x, y = self._axes(row, col)
                inner = {"x": shared == "x" and row < rows, "y": shared == "y" and col > 1}
                matched = {"x": self._axes(rows, col)[0], "y": self._axes(row, 1)[1]}
                for axis, anchor, domain in ((x, y, columns[col - 1]), (y, x, lines[row - 1])):
                    hidden = {"matches": matched[axis[0]], "showticklabels": False} if inner[axis[0]] else {}
                    self.layout[_long(axis)] = {"anchor": anchor, "domain": list(domain), **hidden}
        for i, title in enumerate(titles):
            middle = sum(columns[i % cols]) / 2
            place = {"x": middle, "xref": "paper", "xanchor": "center", "y": lines[i // cols][1], "yref": "paper", "yanchor": "bottom"}
            self.add_annotation(text=title, showarrow=False, font={"size": 13}, **place)

    def _axes(self, row: int, col: int) -> tuple[str, str]:
        """A subplot's axes as traces name them: ``x2, y2``."""
        number = (row - 1) * self._cols + col
        suffix = str(number) if number > 1 else ""
        return f"x{suffix}", f"y{suffix}"

    def add_trace(self, trace: Mapping[str, Any], row: int = 1, col: int = 1) -> None:
        """Draw a trace in a subplot; one that names its axes stays on them."""
        x, y = self._axes(row, col)
        self.traces.append({"xaxis": x, "yaxis": y, **trace})

    def add_annotation(self, **annotation: Any) -> None:
        """Write a text somewhere."""
        self.layout.setdefault("annotations", []).append(annotation)

    def update_layout(self, **layout: Any) -> None:
        """Change what is named, at any depth; None takes away."""
        self.layout = merged(self.layout, layout)

    def update_xaxes(self, row: int = 0, col: int = 0, **axis: Any) -> None:
        """Change the horizontal axis of one subplot, or of all."""
        self._update("x", row, col, axis)

    def update_yaxes(self, row: int = 0, col: int = 0, **axis: Any) -> None:
        """Change the vertical axis of one subplot, or of all."""
        self._update("y", row, col, axis)

    def _update(self, which: str, row: int, col: int, axis: Mapping[str, Any]) -> None:
        one = _long(self._axes(row, col)["xy".index(which)]) if row else ""
        for name in [one] if one else [name for name in self.layout if re.fullmatch(rf"{which}axis\d*", name)]:
            self.layout[name] = merged(self.layout[name], axis)

    def plotly(self) -> go.Figure:
        """plotly's own figure of it, every property checked."""
        import plotly.graph_objects as go

        return go.Figure({"data": self.traces, "layout": {"template": "none", **self.layout}})


def _long(axis: str) -> str:
    """``xaxis2`` for ``x2``: as the layout names it."""
    return f"{axis[0]}axis{axis[1:]}"


def _spans(sizes: Sequence[float], gap: float) -> list[tuple[float, float]]:
    """Ends in [0, 1] of parts of these relative sizes with gaps between them."""
    scale = (1 - gap * (len(sizes) - 1)) / sum(sizes)
    starts = [sum(sizes[:i]) * scale + i * gap for i in range(len(sizes))]
    return [(start, start + size * scale) for start, size in zip(starts, sizes, strict=True)]


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``first`` with what ``second`` says otherwise, dictionaries within merged alike; None takes away."""
    both = {
        name: merged(first[name], value) for name, value in second.items() if isinstance(value, dict) and isinstance(first.get(name), dict)
    }
    return {name: value for name, value in {**first, **second, **both}.items() if value is not None}
