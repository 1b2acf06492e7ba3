"""Which figures a stratum gets, in which order, with which captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdsearch.analysis.cells import Cells, cells
from kdsearch.analysis.frame import StudyFrame
from kdsearch.analysis.levels import default_axes
from kdsearch.errors import UsageError
from kdsearch.report import captions
from kdsearch.report.figures import curves, heatmap, lines
from kdsearch.report.style import Figure, baseline_words, short_words, words


def slug(*parts: str) -> str:
    """A file name from texts: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(p for p in parts if p)).strip("-").lower() or "study"


def axes_of(frame: StudyFrame, x: str | None, y: str | None) -> tuple[str | None, str | None]:
    """The two parameters shown: those asked for, else the defaults.

    Raises UsageError for a name that the study does not search.
    """
    for name in (x, y):
        if name is not None and name not in frame.axes:
            raise UsageError(f"{frame.study}: no parameter {name!r} to show; it searches: {', '.join(frame.axes) or 'none'}")
    dx, dy = default_axes(frame)
    others = [n for n in (dx, dy, *frame.axes) if n]
    if x is None:
        x = next((n for n in others if n != y), None)
    if y is None:
        y = next((n for n in [dy, *others] if n and n != x), None)
    return x, y


def figures_of(frame: StudyFrame, x: str | None, y: str | None, prefix: str = "") -> list[Figure]:
    """All figures of one stratum, in the report's order."""
    said = words(frame.metric)
    found: list[Figure] = []
    if x is not None and y is not None:
        shown = cells(frame, x, y)
        found += [_lines(frame, shown, prefix), _heatmap(frame, shown, prefix), _companion(frame, shown, prefix)]
    found += _course(frame, prefix)

    return found


def _plain(text: str) -> str:
    """Words that were escaped for plotly, as plain text: the page escapes captions itself."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _lines(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    across, by = _plain(short_words(shown.y.name)), _plain(short_words(shown.x.name))
    parts = [
        f"{said.name} against {across}, a line for each {by}: means with bands of the 95% interval, dots are single {shown.unit}s "
        "(lines are moved apart sideways by a hair so that they can be seen)."
    ]
    if shown.baseline is not None and shown.baseline.by_seed:
        n = len(shown.baseline.by_seed)
        parts.append(f"Dotted: {_plain(baseline_words(shown.baseline.name))}, {shown.baseline.mean:.2f} {said.unit}, n = {n}.")
    teachers = lines.teacher_table(frame, shown.y)
    if len(teachers):
        low, high = int(teachers["n"].min()), int(teachers["n"].max())
        counted = f"{low}" if low == high else f"{low} to {high}"
        parts.append(f"Strip below: the teachers' own validation accuracy, mean and SD over n = {counted} teachers (one a seed).")
    drawn = lines.draw_lines(shown, said, teachers) if shown.table["n"].sum() else None
    caption = " ".join([*parts, captions.measured(shown, frame, said)]) if drawn is not None else NOTHING
    return Figure(slug(prefix, "1-lines"), f"{said.name} against {across}", caption, lines.lines_table(shown), drawn, 520, 900)


NOTHING = "No trial has finished, so there is nothing to draw yet."


def _heatmap(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    title = f"{_plain(short_words(shown.x.name))} × {_plain(short_words(shown.y.name))}"
    title = title[0].upper() + title[1:]
    if shown.baseline is not None and shown.baseline.by_seed:
        base = _plain(baseline_words(shown.baseline.name))
        paired = shown.table.loc[shown.table["n"] > 0, "paired"].gt(0).all()
        colour = f"Colour: difference of the mean to the {base} ({shown.baseline.mean:.2f} {said.unit}, n = {len(shown.baseline.by_seed)})"
        colour += ", paired by seed." if paired else "."
    else:
        colour = f"Colour: mean {said.lower}; the study has no finished baseline to compare with."
    text = f"{said.name} ({said.unit})" if said.unit else said.name
    marks = "Text: mean ± half of the 95% interval, and n. Hatched: no value."
    if shown.noise.df > 0:
        marks += " Outlined: cells that the data do not tell apart from the best mean (thick), at 95% for all together."
    caption = f"{text}. {colour} {marks} {captions.measured(shown, frame, said)}"
    least, most = heatmap.natural_width(len(shown.x.labels))
    return Figure(slug(prefix, "2-heatmap"), title, caption, heatmap.heatmap_table(shown), heatmap.draw_heatmap(shown, said), least, most)


def _companion(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    caption = (
        f"What the cells above rest on. Left: n, the number of {shown.unit}s with a final value; right: full width of the 95% interval of "
        f"the mean{f' ({said.difference_unit})' if said.difference_unit else ''}. Hatched: no value. {captions.measured(shown, frame, said)}"
    )
    least, most = heatmap.natural_width(len(shown.x.labels), 2)
    table, drawn = heatmap.companion_table(shown), heatmap.draw_companion(shown, said)
    return Figure(slug(prefix, "3-counts"), "How much each cell rests on", caption, table, drawn, round(least * 0.7), most)


def _course(frame: StudyFrame, prefix: str) -> Sequence[Figure]:
    said, counts = words(frame.metric), frame.counts()
    found = []
    if len(frame.curves):
        states = ", ".join(f"{counts[s]} {w}" for s, w in (("COMPLETE", "finished"), ("PRUNED", "pruned"), ("FAIL", "failed")) if counts[s])
        caption = (
            f"{said.name} by epoch of each trial's first seed: {states}. The band holds the middle 80% of finished trials. "
            f"At most {curves.DRAWN_AT_MOST} curves of a kind are drawn, evenly over the study; the CSV has all. {captions.split_words(frame.metric)}."
        )
        drawn = curves.draw_curves(frame, said)
        found.append(Figure(slug(prefix, "9a-curves"), "Learning curves", caption, curves.curves_table(frame), drawn, 480, 900))
    if sum(counts.values()):
        caption = (
            f"Course of the search: {sum(counts.values())} trials, mean of the final {said.lower} over a trial's seeds; "
            "pruned and failed trials have no final value and stand as ticks at the bottom. "
            "The best so far rises with luck as well as with better configurations."
        )
        drawn = curves.draw_history(frame, said)
        found.append(Figure(slug(prefix, "9c-history"), "Course of the search", caption, curves.history_table(frame), drawn, 480, 900))
    return found
