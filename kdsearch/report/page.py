"""The page: one HTML file that works offline, plotly.js inlined once, every script named by its hash in the page's own policy.

plotly.js lies there as text and starts with the first figure: text and table are on the screen before its five megabytes are read.

Text of study files reaches the page through :func:`html.escape` or as JSON whose ``<`` are written as ``\\u003c``; and if an escape were
forgotten, the Content-Security-Policy lets no script run but the three written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import pandas as pd
import plotly
from plotly.offline import get_plotlyjs

from kdsearch.report.style import Figure

EMBEDDED_CSV = 150_000
"""Characters up to which a figure's CSV travels inside the page; longer ones are linked in ``figures/``."""
EMBEDDED_ROWS = 80
"""Rows up to which a figure's table is also written out as HTML, for screen readers and copying."""


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, plain-text paragraphs, warnings, summary sentences, figures, and sections within."""

    title: str
    anchor: str
    lead: str = ""
    facts: str = ""
    warnings: Sequence[str] = ()
    summary: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    parts: Sequence[Section] = field(default=())


def safe_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, no line separators, NaN as null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return str(value)


def page(title: str, lead: str, summary: Sequence[str], sections: Sequence[Section], trials: dict[str, Any], footer: str) -> str:
    """The whole document. ``trials`` is what :func:`kdsearch.report.trials_table.trials_data` gives."""
    assets = files("kdsearch.report") / "assets"
    css, code = (assets / "page.css").read_text("utf-8"), (assets / "page.js").read_text("utf-8")
    library = get_plotlyjs()
    early = "document.documentElement.dataset.theme=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light';"
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in (early, library, code))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; connect-src data: blob:; base-uri 'none'"
    )
    body = "".join(_section(section, level=2) for section in sections)
    links = "".join(f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="kdsearch, plotly {escape(plotly.__version__)}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
<script>{early}</script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="bar"><nav aria-label="Sections">{links}<a href="#all-trials">Trials</a></nav>
<button id="theme" type="button" aria-pressed="false" aria-label="Dark colours">Dark</button></header>
<main id="main">
<h1>{escape(title)}</h1>
{_paragraph(lead, "lead")}
{_summary(summary, "Summary")}
{body}
{_trials_section()}
<footer>{escape(footer)}</footer>
</main>
<script type="application/json" id="report-data">{safe_json({"trials": trials})}</script>
<script type="text/plain" id="library">{library}</script>
<script>{code}</script>
</body>
</html>
"""


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _paragraph(text: str, kind: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _summary(sentences: Sequence[str], label: str) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="summary" aria-label="{escape(label)}"><ul>{items}</ul></section>'


def _section(section: Section, level: int) -> str:
    parts = [f'<section id="{escape(section.anchor)}"><h{level}>{escape(section.title)}</h{level}>']
    parts.append(_paragraph(section.lead, "lead"))
    parts.append(_paragraph(section.facts, "facts"))
    parts += [f'<p class="warning" role="note">{escape(warning)}</p>' for warning in section.warnings]
    parts.append(_summary(section.summary, f"Summary of {section.title}"))
    parts += [figure_html(figure, min(level + 1, 4)) for figure in section.figures]
    parts += [_section(part, min(level + 1, 4)) for part in section.parts]
    return "".join(parts) + "</section>"


def figure_html(figure: Figure, level: int = 3) -> str:
    """One figure: heading, drawing, caption, buttons, and its table."""
    name, slug = f"fig-{figure.slug}", escape(figure.slug)
    head = f"<h{level}>{escape(figure.title)}</h{level}>"
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    if figure.drawing is None:
        return f'<figure id="{escape(name)}">{head}{caption}</figure>'
    drawing = {"data": figure.drawing.traces, "layout": figure.drawing.layout}
    height = int(figure.drawing.layout["height"])
    csv = figure.table.to_csv(index=False)
    embedded = len(csv) <= EMBEDDED_CSV
    tools = [f'<button type="button" data-image="{kind}" data-source="plot-{slug}">{kind.upper()}</button>' for kind in ("svg", "png")]
    if embedded:
        tools.append(f'<button type="button" data-csv="{slug}" data-source="{slug}">CSV</button>')
    else:
        tools.append(f'<a href="figures/{slug}.csv" download>CSV</a>')
    data = f'<script type="application/json" id="csv-{slug}">{safe_json(csv)}</script>' if embedded else ""
    return (
        f'<figure id="{escape(name)}">{head}'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(figure.title)}">'
        f'<div class="plot" id="plot-{slug}" data-source="spec-{slug}" data-slug="{slug}" role="img" '
        f'aria-label="{escape(figure.title)}. {escape(figure.caption)}" '
        f'style="height:{height}px;min-width:{figure.min_width}px;max-width:{figure.max_width}px"></div></div>'
        f'{caption}<div class="tools">{"".join(tools)}</div>{_data_table(figure.table)}'
        f'<script type="application/json" id="spec-{slug}">{safe_json(drawing)}</script>{data}</figure>'
    )


def _data_table(table: pd.DataFrame) -> str:
    if table.empty or len(table) > EMBEDDED_ROWS:
        return ""
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in table.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_shown(v))}</td>' for v in row)}</tr>" for row in table.itertuples(index=False))
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<details class="data"><summary>Numbers</summary><div class="wrap" tabindex="0"><table>{rows}</table></div></details>'


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _trials_section() -> str:
    states = "".join(f'<option value="{state}">{state.lower()}</option>' for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"))
    return f"""<section id="all-trials"><h2>Trials</h2>
<p class="facts">Every trial, baselines and confirmations included.
Choose a heading to sort; a row opens to its recipe, values by seed and keys.</p>
<div class="controls"><label>Filter <input id="filter" type="search" placeholder="words, such as cr_linear 2" autocomplete="off"></label>
<label>State <select id="state"><option value="">all</option>{states}</select></label>
<button id="download" type="button">Download CSV</button> <span class="count" id="count" role="status" aria-live="polite"></span></div>
<div class="wrap"><table id="trials"><caption class="count" hidden>Trials</caption><thead></thead><tbody></tbody></table></div>
<p><button id="more" type="button" hidden>Show more</button></p></section>"""
