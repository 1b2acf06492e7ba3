"""Writing the report: ``report.html`` and, in ``figures/``, a CSV beside each picture. Loads neither torch nor ray."""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from kdsearch.analysis.cells import cells
from kdsearch.analysis.confirm import confirmation
from kdsearch.analysis.eligible import eligible_rows
from kdsearch.analysis.frame import StudyFrame, study_frame
from kdsearch.analysis.panels import differences, panels_of_frames
from kdsearch.analysis.summary import confirmed_sentence, panel_sentences
from kdsearch.errors import UsageError
from kdsearch.report.comparison import panel_figures
from kdsearch.report.figures.heatmap import draw_heatmap
from kdsearch.report.images import write_images
from kdsearch.report.page import Section, page
from kdsearch.report.sections import axes_of, draw_stratum
from kdsearch.report.style import Figure, slug, words
from kdsearch.report.trials_table import trials_data

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Stratum, Study

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
        out: folder; made where it is missing. Each file is replaced as a whole: a reader never sees half a page.
        x, y: parameters of the heatmap; default: temperature and teacher width, else the two most varied ones.
        panel: a parameter that gets a panel per value; default: studies, else a schedule, else strata.
        images: also write PNG, SVG and PDF where kaleido and a Chrome are found.

    Raises:
        UsageError: no study, or a parameter that none of them searches.
    """
    if not studies:
        raise UsageError("no study to report on; name at least one")
    # A surrogate's matrices are small: on a busy machine BLAS's threads wait for each other ten times as long as they compute.
    with threadpool_limits(1, "blas"):
        made = _sections(studies, x, y, panel)
    titles = [study.title or study.name for study, _ in studies]
    title = titles[0] if len(titles) == 1 else " | ".join(titles)
    lead = (studies[0][0].description or "") if len(studies) == 1 else ""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for figure in made.figures:
        _replace(folder / f"{figure.slug}.csv", figure.table.to_csv(index=False))
    _remove_stale(folder, {figure.slug for figure in made.figures})
    stills = write_images(made.figures, folder) if images else "Static images (PNG, SVG, PDF) are written when the run is over."
    text = page(title, lead, made.summary, made.sections, trials_data(studies), f"{_footer()} {stills}")
    _replace(out / "report.html", text)
    return out / "report.html"


@dataclass(frozen=True)
class _Made:
    sections: list[Section]
    figures: list[Figure]
    summary: list[str]


def _sections(studies: Sequence[tuple[Study, list[TrialRow]]], x: str | None, y: str | None, panel: str | None) -> _Made:
    several = len(studies) > 1
    framed = [(study, [(s, study_frame(study, rows, s.name)) for s in study.strata_list()]) for study, rows in studies]
    known = list(dict.fromkeys(name for _, frames in framed for _, frame in frames for name in frame.axes))
    for name in (x, y, panel):
        if name is not None and name not in known:
            raise UsageError(f"no parameter {name!r} to show; searched are: {', '.join(known) or 'none'}")
    sections, figures, overall = [], [], []
    compared, sentences = _compared(framed, x, y)
    if compared:
        sections.append(Section("Side by side", "side-by-side", figures=compared))
        figures += compared
        overall += sentences
    for (study, frames), (_, rows) in zip(framed, studies, strict=True):
        parts = []
        for stratum, frame in frames:
            prefix = "-".join(p for p in (slug(study.name) if several else "", stratum.slug if stratum.name else "") if p)
            mine = {name: name if name in frame.axes else None for name in (x, y) if name is not None}
            eligible = study_frame(study, eligible_rows(rows, study), stratum.name) if study.constraints else frame
            chosen = confirmation(rows, study, stratum.name)
            confirmed = confirmed_sentence(chosen, study.name) if chosen is not None else ""
            shown = axes_of(frame, mine.get(x or ""), mine.get(y or ""))
            drawn = draw_stratum(frame, eligible, *shown, _panel(frame, panel), prefix, confirmed)
            figures += drawn.figures
            title = stratum.name or (study.title or study.name if several else "Figures")
            anchor = slug("part", study.name, stratum.slug if stratum.name else "")
            parts.append(Section(title, anchor, facts=_facts(frame, eligible, study), summary=drawn.summary, figures=drawn.figures))
        warnings = _warnings(study, rows)
        if len(parts) == 1:
            lead = (study.description or "") if several else ""
            alone = replace(parts[0], warnings=warnings, lead=lead)
            if not several:  # a single part: its summary is the page's
                overall += parts[0].summary
                alone = replace(alone, summary=())
            sections.append(alone)
        elif several:
            head = Section(
                study.title or study.name, slug("study", study.name), lead=study.description or "", warnings=warnings, parts=parts
            )
            sections.append(head)
        else:
            overall += [f"{part.title}: {part.summary[0]}" for part in parts if part.summary]
            parts[0] = replace(parts[0], warnings=warnings)
            sections += parts
    return _Made(sections, figures, overall)


def _compared(
    framed: Sequence[tuple[Study, list[tuple[Stratum, StudyFrame]]]], x: str | None, y: str | None
) -> tuple[list[Figure], list[str]]:
    """Studies, or a single study's strata, side by side: figures, and a sentence for each difference of studies."""
    several = len(framed) > 1
    frames = [
        (" ".join(p for p in ((study.title or study.name) if several else "", stratum.name) if p), frame)
        for study, strata in framed
        for stratum, frame in strata
    ]
    if len(frames) < 2 or len({frame.metric for _, frame in frames}) > 1:
        return [], []
    shown = next((pair for _, frame in frames if None not in (pair := _usable_axes(frame, x, y))), (None, None))
    if shown[0] is None or shown[1] is None:
        return [], []
    panels = panels_of_frames(frames, shown[0], shown[1])
    said = words(frames[0][1].metric)
    exploration = any(p.cells.exploration for p in panels)
    found = panel_figures(panels, said, "all", to_first=False, exploration=exploration, compare=several)
    told = several and not exploration and len(panels) > 1
    return found, panel_sentences(differences(panels, to_first=False), said.difference_unit) if told else []


def _usable_axes(frame: StudyFrame, x: str | None, y: str | None) -> tuple[str | None, str | None]:
    if any(name is not None and name not in frame.axes for name in (x, y)):
        return None, None
    return axes_of(frame, x, y)


def _panel(frame: StudyFrame, panel: str | None) -> str | None:
    """The parameter that gets a panel per value: as asked, else a schedule or method where the study searches one."""
    if panel is not None:
        return panel if panel in frame.axes else None
    return next((name for name in frame.axes if name.lower() in ("schedule", "method", "system")), None)


def _facts(frame: StudyFrame, eligible: StudyFrame, study: Study) -> str:
    counts = frame.counts()
    states = ", ".join(f"{n} {state.lower()}" for state, n in counts.items() if n)
    kind = "grid, a trial is a cell on a seed" if frame.grid else f"adaptive search, pruner {frame.pruner}"
    text = f"{sum(counts.values())} trials ({states or 'none yet'}); {kind}."
    if study.constraints:
        bounds = ", ".join(str(one) for one in study.constraints)
        text += f" {len(eligible.configs)} of {len(frame.configs)} finished configurations keep the constraints ({bounds})."
    return text


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


def _remove_stale(folder: Path, slugs: set[str]) -> None:
    """Remove figures of an earlier report that this one lacks; files that are not named like a figure stay."""
    for path in folder.iterdir():
        if re.fullmatch(r"(.*-)?\d[a-e]?-[a-z]+\.(csv|png|svg|pdf)", path.name) and path.stem not in slugs:
            path.unlink()


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
    return draw_heatmap(cells(frame, x, y, fixed), words(frame.metric)).plotly()


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
