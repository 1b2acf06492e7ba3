"""Writing the report: ``report.html`` and, in ``figures/``, a CSV beside each picture. Loads neither torch nor ray."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from kdsearch.analysis.cells import cells
from kdsearch.analysis.frame import StudyFrame, study_frame
from kdsearch.errors import UsageError
from kdsearch.report.figures.heatmap import draw_heatmap
from kdsearch.report.page import Section, page
from kdsearch.report.sections import axes_of, figures_of, slug
from kdsearch.report.style import Figure, words
from kdsearch.report.trials_table import trials_data

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

WATCH_SECONDS = 10.0
"""How often a watched run is read again."""


def write_report(
    studies: Sequence[tuple[Study, list[TrialRow]]],
    out: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    panel: str | None = None,
    images: bool = True,
) -> Path:
    """Write ``report.html`` and ``figures/`` into the folder ``out``; gives the page's path.

    Args:
        studies: each study with its rows; several are shown side by side, in this order.
        out: folder; made where it is missing. Both are replaced as a whole: a reader never sees half a page.
        x, y: parameters of the heatmap; default: temperature and teacher width, else the two most varied ones.
        panel: a parameter that gets a panel per value; default: studies, else a schedule, else strata.
        images: also write PNG, SVG and PDF where kaleido and a Chrome are found.

    Raises:
        UsageError: no study, or a parameter that none of them searches.
    """
    if not studies:
        raise UsageError("no study to report on; name at least one")
    sections, figures = _sections(studies, x, y, panel)
    titles = [study.title or study.name for study, _ in studies]
    title = titles[0] if len(titles) == 1 else " | ".join(titles)
    lead = (studies[0][0].description or "") if len(studies) == 1 else ""
    text = page(title, lead, (), sections, trials_data(studies), _footer())
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        _replace(folder / f"{figure.slug}.csv", figure.table.to_csv(index=False))
    _replace(out / "report.html", text)
    return out / "report.html"


def _sections(
    studies: Sequence[tuple[Study, list[TrialRow]]], x: str | None, y: str | None, panel: str | None
) -> tuple[list[Section], list[Figure]]:
    sections, figures = [], []
    for study, rows in studies:
        several = len(studies) > 1
        frames = [study_frame(study, rows, stratum.name) for stratum in study.strata_list()]
        parts = []
        for frame, stratum in zip(frames, study.strata_list(), strict=True):
            prefix = slug(study.name if several else "", stratum.slug if stratum.name else "")
            prefix = "" if prefix == "study" else prefix
            drawn = figures_of(frame, *axes_of(frame, x, y), prefix)
            figures += drawn
            anchor = slug(study.name, stratum.slug)
            parts.append(Section(stratum.name or "Figures", anchor, facts=_facts(frame), figures=drawn))
        heading = Section(
            study.title or study.name,
            slug("study", study.name),
            lead=(study.description or "") if several else "",
            warnings=_warnings(study, rows),
            parts=parts if len(parts) > 1 else (),
            facts=parts[0].facts if len(parts) == 1 else "",
            figures=parts[0].figures if len(parts) == 1 else (),
        )
        sections.append(heading)
    return sections, figures


def _facts(frame: StudyFrame) -> str:
    counts = frame.counts()
    states = ", ".join(f"{n} {state.lower()}" for state, n in counts.items() if n)
    kind = "complete grid, every cell on every seed" if frame.grid else f"adaptive search, pruner {frame.pruner}"
    return f"{sum(counts.values())} trials ({states or 'none yet'}); {kind}."


def _warnings(study: Study, rows: Sequence[TrialRow]) -> list[str]:
    found = []
    if study.objective.metric.startswith("test"):
        found.append(
            "This study looked at test data while it searched, to repeat a paper. Its numbers are not an estimate for new data: "
            "the configuration was chosen on the data that it is measured on."
        )
    found += list(dict.fromkeys(text for row in rows for text in row.warnings))[:5]
    return found


def _footer() -> str:
    try:
        ours = version("kdsearch")
    except PackageNotFoundError:
        ours = "(not installed)"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Written by kdsearch {ours} on {now}. Every figure's numbers are in figures/ as CSV."


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def heatmap(
    study: Study,
    rows: Sequence[TrialRow],
    x: str = "temperature",
    y: str = "width",
    *,
    stratum: str = "",
    fixed: Mapping[str, object] | None = None,
) -> go.Figure:
    """Heatmap of any two parameters as a plotly figure, for a notebook.

    Args:
        stratum: name of the stratum; needed where the study has several.
        fixed: other parameters held at a label; all others are averaged.

    Raises:
        UsageError: a parameter or stratum that the study does not have.
    """
    names = [s.name for s in study.strata_list()]
    if stratum not in names:
        if stratum:
            raise UsageError(f"{study.name}: no stratum {stratum!r}; it has: {', '.join(names)}")
        if len(names) > 1:
            raise UsageError(f"{study.name}: which stratum? Give stratum= one of: {', '.join(names)}")
        stratum = names[0]
    frame = study_frame(study, rows, stratum)
    for name in (x, y, *(fixed or {})):
        if name not in frame.axes:
            raise UsageError(f"{study.name}: no parameter {name!r} to show; it searches: {', '.join(frame.axes) or 'none'}")
    return draw_heatmap(cells(frame, x, y, fixed), words(frame.metric))


def watch_report(
    studies: Sequence[tuple[Study, Callable[[], list[TrialRow]]]],
    out: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    panel: str | None = None,
    say: Callable[[str], None] = print,
    every: float = WATCH_SECONDS,
) -> None:
    """Write the report again whenever trials have changed, until interrupted (without static images, which take long).

    ``studies`` gives each study with a function that reads its rows.
    """
    before: object = None
    while True:
        read = [(study, rows()) for study, rows in studies]
        now = [(row.study, row.number, row.state, tuple(row.seeds), row.epochs) for _, rows in read for row in rows]
        if now != before:
            path = write_report(read, out, x=x, y=y, panel=panel, images=False)
            say(f"{path}: {sum(len(rows) for _, rows in read)} trials")
            before = now
        time.sleep(every)
