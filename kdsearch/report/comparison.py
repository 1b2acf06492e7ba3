"""Panels side by side: several studies, strata, or levels of a third parameter."""

from __future__ import annotations

from collections.abc import Sequence

from kdsearch.analysis.cells import FEW
from kdsearch.analysis.panels import Panel, differences
from kdsearch.report import captions
from kdsearch.report.figures import panels
from kdsearch.report.style import Figure, Words, capital, short_words, slug, unescaped

MOST_PANELS = 8
"""Panels a figure takes; more are left to the CSV."""


def _marks(found: Sequence[Panel]) -> str:
    """What the marks that occur in the panels mean."""
    tables = [p.cells.table for p in found]
    marks = [
        (any((t["n"] == 0).any() for t in tables), "hatched: no value"),
        (any(t["tied"].any() for t in tables), "outlined: not told apart from the panel's best (thick)"),
        (any(t["n"].between(1, FEW - 1).any() for t in tables), f"triangle: n < {FEW}"),
        (any((t["pruned"] > 0).any() for t in tables), "cross: pruned trials"),
        (any((t["failed"] > 0).any() for t in tables), "dot: failed trials"),
    ]
    said = "; ".join(text for occurs, text in marks if occurs)
    return f" {capital(said)}." if said else ""


def panel_figures(
    found: Sequence[Panel], said: Words, prefix: str, *, to_first: bool, exploration: bool, compare: bool = True
) -> list[Figure]:
    """Figure 4: panels with one colour scale and the differences between them (unless ``compare`` is off, or it is exploration).

    ``to_first`` takes differences to the first panel (levels of a parameter); else between neighbours (methods in their
    order). Empty below two panels.
    """
    if len(found) < 2:
        return []
    drawn = found[:MOST_PANELS]
    first = drawn[0].cells
    least = panels.Spots.of(len(drawn), drawn[0]).width
    compared = all(p.cells.table["diff"].notna().any() for p in drawn)
    names = " | ".join(p.title for p in drawn)
    title = capital(unescaped(f"{short_words(first.x.name, first.x.title)} × {short_words(first.y.name, first.y.title)}, side by side"))
    left_out = f" {len(found) - len(drawn)} more panels are in the CSV." if len(found) > len(drawn) else ""
    colour = "difference of the mean to the panel's own baseline" if compared else f"mean {said.lower}"
    notes = "; ".join(f"{p.title}: {captions.n_words(p.cells)}, pooled SD {p.cells.noise.sd:.2g}" for p in drawn if p.cells.noise.df > 0)
    text = "mean ± half of the 95% interval, and n" if notes else "mean and n"
    caption = f"{names}. {said.axis}. Colour: {colour}, one scale for all panels. Text: {text}.{left_out}"
    caption += _marks(drawn)
    caption += f" Intervals are pooled within each panel ({notes})." if notes else ""
    caption += f" {captions.EXPLORATION}" if exploration else ""
    figures = [
        Figure(
            slug(prefix, "4-panels"),
            title,
            caption,
            panels.panels_table(found),
            panels.draw_panels(drawn, said),
            least,
            max(least, min(least + 300, 1120)),
        )
    ]
    gaps = [d for d in differences(drawn, to_first=to_first) if len(d.table)] if compare and not exploration else []
    if gaps:
        least = panels.Spots.of(len(gaps), drawn[0]).width
        paired = all(bool(d.table["paired"].all()) for d in gaps)
        unit = f" ({said.difference_unit})" if said.difference_unit else ""
        pairing = "paired by seed" if paired else "not paired where seeds are not shared"
        caption = (
            f"Differences in {said.lower}{unit}, with half of the 95% interval and n, {pairing}. Hatched: not measured in both. "
            f"Outlined: intervals of single cells that leave out 0; "
            f"of {sum(len(d.table) for d in gaps)} cells, one in twenty does so by chance."
        )
        table, drawing = panels.differences_table(gaps, drawn), panels.draw_differences(gaps, drawn, said)
        figures.append(
            Figure(
                slug(prefix, "4b-differences"), "What each panel adds", caption, table, drawing, least, max(least, min(least + 300, 1120))
            )
        )
    return figures
