"""How figures look and how things are worded: one place for colours, layout, units and escaping."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kdsearch.analysis.frame import baseline_text
from kdsearch.report.drawing import Drawing

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, MUTED, GRID = "#1b1f24", "#6b7280", "#e3e6ea"
MARK = "#14181d"
"""Marks and text on a heatmap's light cells: the same in dark mode, where the ink of everything else turns light."""
ACCENT, PRUNED = "#2f6db3", "#c2571a"

DIVERGING = [[0.0, "#8f3d06"], [0.25, "#dd8f4b"], [0.5, "#f6f4f0"], [0.75, "#79acd6"], [1.0, "#144f8a"]]
"""Worse (orange) to better (blue), light in the middle: told apart with every common colour blindness, and in grey by the text."""
SEQUENTIAL = [[0.0, "#f3f1ea"], [0.35, "#b9cfd4"], [0.7, "#5a90a8"], [1.0, "#1d4f6e"]]

_ORDERED = ("#3558a8", "#3f8fc4", "#2f9e8f", "#8aa63a", "#d9a02b", "#d4702c", "#b23a48", "#7d3c78")
_UNORDERED = ("#3f7fbf", "#d4702c", "#2f9e8f", "#b0559a", "#c79a1b", "#6f7bd0", "#8a8f3c", "#b23a48")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon", "star")
DASHES = ("solid", "solid", "solid", "solid", "dash", "dash", "dash", "dash")


def line_colours(count: int, ordered: bool) -> list[str]:
    """``count`` colours, spread over an ordered scale or taken from a set of distinct ones; each shows on white and on dark grey."""
    source = _ORDERED if ordered else _UNORDERED
    if count >= len(source) or not ordered:
        return [source[i % len(source)] for i in range(count)]
    return [source[round(i * (len(source) - 1) / max(count - 1, 1))] for i in range(count)]


def faint(colour: str, alpha: float) -> str:
    """``#rrggbb`` with an opacity."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha:g})"


@dataclass(frozen=True)
class Words:
    """Words and units of the objective: ``Validation accuracy``, ``%``, and ``points`` for its differences."""

    name: str
    unit: str
    difference_unit: str

    @property
    def axis(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def lower(self) -> str:
        return self.name[0].lower() + self.name[1:]


_METRICS = {
    "val_accuracy": Words("Validation accuracy", "%", "points"),
    "test_accuracy": Words("Test accuracy", "%", "points"),
    "val_loss": Words("Validation loss", "nats", "nats"),
    "train_loss": Words("Training loss", "nats", "nats"),
}
_PARAMETERS = {
    "temperature": "temperature τ",
    "tau": "temperature τ",
    "width": "teacher width (× base)",
    "teacher_width": "teacher width (× base)",
    "coefficient": "coefficient λ",
    "learning_rate": "learning rate",
}


def words(metric: str) -> Words:
    """The objective's words."""
    return _METRICS.get(metric, Words(plain(metric.replace("_", " ").capitalize()), "", ""))


def parameter_words(name: str, title: str = "") -> str:
    """A parameter's axis title, escaped for plotly: as the study says (``title``), else a known name's words, else the name."""
    return capital(plain(title) if title else _PARAMETERS.get(name.lower(), plain(name.replace("_", " "))))


def short_words(name: str, title: str = "") -> str:
    """A parameter within a sentence, without its unit, escaped for plotly."""
    words = parameter_words(name, title).split(" (")[0]
    return words[:1].lower() + words[1:] if words[1:2].islower() else words


def baseline_words(name: str) -> str:
    """``no-KD baseline`` for ``no_kd``; escaped for plotly."""
    return plain(baseline_text(name))


def plain(text: object) -> str:
    """Text of a study file made harmless for plotly, which reads a subset of HTML in every label."""
    return html.escape(str(text), quote=False)


def unescaped(text: str) -> str:
    """Words that were escaped for plotly, as plain text: the page escapes titles and captions itself."""
    return html.unescape(text)


def capital(text: str) -> str:
    """The first letter large."""
    return text[:1].upper() + text[1:]


def slug(*parts: str) -> str:
    """A file name from texts: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(p for p in parts if p)).strip("-").lower() or "study"


def decimals(spreads: Sequence[float], fallback: int = 2) -> int:
    """Decimals that show two significant digits of a typical half-width (0 to 4)."""
    finite = sorted(s for s in spreads if math.isfinite(s) and s > 0)
    if not finite:
        return fallback
    return min(max(1 - math.floor(math.log10(finite[len(finite) // 2])), 0), 4)


def signed(value: float, digits: int) -> str:
    """A difference with its sign and a true minus: ``+0.31``, ``−0.20``."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "+")


def interval(low: float, high: float, digits: int) -> str:
    """``[1.2, 3.4]``."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


@dataclass(frozen=True)
class Figure:
    """One figure of the report: ``table`` is what it is drawn from, and is written as CSV.

    ``slug`` names its files; ``caption`` and ``title`` are plain text (escaped when written); ``min_width`` (pixels) is where a phone
    starts to scroll sideways instead of squeezing it. ``drawing`` is None where there is nothing to draw: the caption says why.
    """

    slug: str
    title: str
    caption: str
    table: pd.DataFrame
    drawing: Drawing | None = None
    min_width: int = 560
    max_width: int = 1040
    notes: tuple[str, ...] = field(default=())


def base(height: int, **layout: Any) -> Drawing:
    """An empty figure in the report's style, ``height`` in pixels."""
    return styled(Drawing(), height, **layout)


_AXIS: dict[str, Any] = {
    "showline": True,
    "linecolor": MUTED,
    "linewidth": 1,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": MUTED,
    "gridcolor": GRID,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 10},
}


def styled(figure: Drawing, height: int, **layout: Any) -> Drawing:
    """Put the report's style on a figure: type, margins, axes, legend below the plot."""
    style: dict[str, Any] = {
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 72, "r": 24, "t": 28, "b": 64},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "title": {"side": "left"}},
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ACCENT},
    }
    figure.update_layout(**style)
    figure.update_xaxes(**_AXIS)
    figure.update_yaxes(**_AXIS)
    figure.update_layout(**layout)
    return figure
