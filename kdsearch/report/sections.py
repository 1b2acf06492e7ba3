"""Which figures a stratum gets, in which order, with which captions; and its summary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from kdsearch.analysis import early, surrogate
from kdsearch.analysis.cells import Cells, cells
from kdsearch.analysis.effects import Effects, effects, factorial_of
from kdsearch.analysis.frame import StudyFrame, readable
from kdsearch.analysis.levels import default_axes
from kdsearch.analysis.panels import differences, panels_of_parameter
from kdsearch.analysis.ridge import Ridge, ridge
from kdsearch.analysis.select import COSTS, Candidates, candidates, cheapest_as_good
from kdsearch.analysis.summary import panel_sentences, summary
from kdsearch.errors import UsageError
from kdsearch.report import captions
from kdsearch.report.comparison import panel_figures
from kdsearch.report.figures import curves, heatmap, lines, trust
from kdsearch.report.figures import decision as decision_figure
from kdsearch.report.figures import mechanism as mechanism_figure
from kdsearch.report.figures import ridge as ridge_figure
from kdsearch.report.figures import strength as strength_figure
from kdsearch.report.style import Figure, baseline_words, capital, short_words, signed, slug, unescaped, words

NOTHING = "No trial has finished, so there is nothing to draw yet."


@dataclass(frozen=True)
class Drawn:
    """The figures of one stratum in the report's order, and its summary's sentences."""

    figures: list[Figure]
    summary: list[str]


def axes_of(frame: StudyFrame, x: str | None, y: str | None) -> tuple[str | None, str | None]:
    """The two parameters shown: those asked for, else the defaults.

    Raises UsageError for a name that the study does not search.
    """
    for name in (x, y):
        if name is not None and name not in frame.axes:
            raise UsageError(f"{frame.study}: no parameter {name!r} to show; it searches: {', '.join(frame.axes) or 'none'}")
    if x is not None and x == y:
        raise UsageError(f"{frame.study}: x and y are both {x!r}; give two parameters of: {', '.join(frame.axes)}")
    dx, dy = default_axes(frame)
    others = [n for n in (dx, dy, *frame.axes) if n]
    if x is None:
        x = next((n for n in others if n != y), None)
    if y is None:
        y = next((n for n in [dy, *others] if n and n != x), None)
    return x, y


def draw_stratum(
    frame: StudyFrame, eligible: StudyFrame, x: str | None, y: str | None, panel: str | None, prefix: str = "", confirmed: str = ""
) -> Drawn:
    """All figures of one stratum, and what they say.

    ``eligible`` is the same stratum without trials that break the study's constraints: what may be chosen. ``confirmed`` is the sentence
    of a confirmation, put first.
    """
    said = words(frame.metric)
    found = candidates(eligible)
    factorial = factorial_of(frame)
    strengths = effects(factorial) if factorial is not None else None
    data = surrogate.inputs(frame)
    forest = surrogate.importances(data) if not frame.grid else None
    shown = cells(frame, x, y) if x is not None and y is not None else None
    track = ridge(shown, frame.maximize) if shown is not None and shown.values else None
    sentences = [confirmed] * bool(confirmed) + summary(frame, shown, found, strengths, track, forest, said.unit)
    figures: list[Figure] = []
    if shown is not None and shown.values:
        figures += [_lines(frame, shown, prefix), _heatmap(frame, shown, prefix), _companion(frame, shown, prefix)]
    elif shown is not None:
        figures += [_heatmap(frame, shown, prefix)]
    if panel is not None and x is not None and y is not None and panel not in (x, y) and panel in frame.axes:
        panels = panels_of_parameter(frame, x, y, panel)
        figures += panel_figures(panels, said, prefix, to_first=True, exploration=frame.exploration)
        if len(panels) > 1 and not frame.exploration:
            sentences += panel_sentences(differences(panels, to_first=True), said.difference_unit)
    if shown is not None and track is not None and len(track.table) > 1:
        figures.append(_ridge(frame, shown, track, prefix))
    figures += _strength(strengths, forest, data, [n for n in (x, y) if n], prefix)
    figures += _mechanism(frame, shown, prefix)
    if len(found.table):
        figures.append(_decision(frame, found, prefix))
    figures += _course(frame, data, shown, prefix)
    return Drawn(figures, sentences)


def _lines(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    across, by = unescaped(short_words(shown.y.name, shown.y.title)), unescaped(short_words(shown.x.name, shown.x.title))
    parts = [
        f"{said.name} against {across}, a line for each {by}: means with bands of the 95% interval; dots are single {shown.unit}s. "
        "Lines stand slightly apart sideways so that all can be seen."
    ]
    if shown.baseline is not None and shown.baseline.by_seed:
        n = len(shown.baseline.by_seed)
        parts.append(f"Dotted: {unescaped(baseline_words(shown.baseline.name))}, {shown.baseline.mean:.2f} {said.unit}, n = {n}.")
    teachers = lines.teacher_table(frame, shown.y)
    if len(teachers):
        low, high = int(teachers["n"].min()), int(teachers["n"].max())
        counted = f"{low}" if low == high else f"{low} to {high}"
        parts.append(f"Strip below: the teachers' own validation accuracy, mean and SD over seeds (n = {counted}).")
    drawn = lines.draw_lines(shown, said, teachers)
    caption = " ".join([*parts, captions.measured(shown, frame, said)])
    return Figure(slug(prefix, "1-lines"), f"{said.name} against {across}", caption, lines.lines_table(shown), drawn, 520, 900)


def _heatmap(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    title = capital(unescaped(f"{short_words(shown.x.name, shown.x.title)} × {short_words(shown.y.name, shown.y.title)}"))
    if shown.baseline is not None and shown.baseline.by_seed:
        compared = unescaped(baseline_words(shown.baseline.name))
        colour = (
            f"Colour: difference of the mean to the {compared} ({shown.baseline.mean:.2f} {said.unit}, n = {len(shown.baseline.by_seed)})"
        )
        colour += ", paired by seed." if shown.table.loc[shown.table["n"] > 0, "paired"].gt(0).all() else "."
    else:
        colour = f"Colour: mean {said.lower}; the study has no finished baseline to compare with."
    marks = "Text: mean ± half of the 95% interval, and n." if shown.noise.df > 0 else "Text: mean and n."
    marks += " Hatched: no value." if (shown.table["n"] == 0).any() else ""
    if shown.noise.df > 0 and shown.values:
        marks += " Outlined: not told apart from the best mean (thick outline), at 95% for all cells together."
    caption = f"{said.axis}. {colour} {marks} {captions.measured(shown, frame, said)}" if shown.values else NOTHING
    least, most = heatmap.natural_width(len(shown.x.labels))
    return Figure(slug(prefix, "2-heatmap"), title, caption, heatmap.heatmap_table(shown), heatmap.draw_heatmap(shown, said), least, most)


def _companion(frame: StudyFrame, shown: Cells, prefix: str) -> Figure:
    said = words(frame.metric)
    hatched = " Hatched: no value." if (shown.table["n"] == 0).any() else ""
    caption = (
        f"What the cells above rest on. Left: n, the {shown.unit}s with a final value; right: full width of the 95% interval of "
        f"the mean{f' ({said.difference_unit})' if said.difference_unit else ''}.{hatched} {captions.measured(shown, frame, said)}"
    )
    least, most = heatmap.natural_width(len(shown.x.labels), 2)
    table, drawn = heatmap.companion_table(shown), heatmap.draw_companion(shown, said)
    return Figure(slug(prefix, "3-counts"), "How much each cell rests on", caption, table, drawn, round(least * 0.7), min(most, 1040))


def _ridge(frame: StudyFrame, shown: Cells, track: Ridge, prefix: str) -> Figure:
    across, up = (unescaped(short_words(level.name, level.title)) for level in (shown.x, shown.y))
    known = bool((track.table["low_i"] >= 0).any())
    caption = f"The {up} with the best mean for each {across}. "
    caption += (
        "Bars: 95% bootstrap interval over seeds; percentages: the share of draws that agree. "
        if known
        else "Without a second value in any cell there is no interval: where the best lies cannot be told. "
    )
    if math.isfinite(track.slope_low):
        span = f"{track.slope:.2f} [{track.slope_low:.2f}, {track.slope_high:.2f}]".replace("-", "−")
        caption += f"Rank correlation of the two: {span}. "
    caption += captions.measured(shown, frame, words(frame.metric))
    return Figure(
        slug(prefix, "5-ridge"), f"Best {up} for each {across}", caption, track.table, ridge_figure.draw_ridge(track, shown), 420, 760
    )


def _strength(
    strengths: Effects | None, forest: surrogate.Importances | None, data: surrogate.Inputs, first: list[str], prefix: str
) -> list[Figure]:
    if strengths is not None:
        table = strength_figure.strength_table(strengths)
        n = strengths.factorial.values.shape[-1]
        caption = (
            f"Shares of variance in a complete factorial of {strengths.factorial.values[..., 0].size} cells × {n} seeds, seeds as a block "
            f"(ε²: sums of squares less what noise alone gives). Bars: 95% intervals of a residual bootstrap. Residual SD "
            f"{strengths.residual_sd:.3g}, {strengths.residual_df} degrees of freedom. With seeds and noise, all shares add to 100%."
        )
        drawn = strength_figure.draw_strength(table, "Share of variance")
        return [Figure(slug(prefix, "6-strength"), "Strength of each parameter and pair", caption, table, drawn, 460, 820)]
    if forest is None:
        return []
    found = []
    title = "Strength of each parameter"
    n = min(len(data.y), surrogate.MOST_FOREST)
    if forest.shown:
        table = _percent(forest.table.assign(kind="parameter"))
        caption = (
            f"Permutation importance of each parameter in a random forest on {n} finished configurations, as a share of the sum; bars: 95% "
            f"intervals from forests on resampled configurations. Out-of-bag R² {forest.r2:.2f}. {captions.EXPLORATION}"
        )
        drawn = strength_figure.draw_strength(table, "Share of importance")
        found.append(Figure(slug(prefix, "6-strength"), title, caption, table, drawn, 460, 820))
    else:
        caption = (
            f"Not shown: a random forest on {n} finished configurations has an out-of-bag R² of {signed(forest.r2, 2).lstrip('+')}, and "
            f"{surrogate.GOOD_ENOUGH} is asked. The data cannot tell how much each parameter matters."
        )
        found.append(Figure(slug(prefix, "6-strength"), title, caption, forest.table))
    pairs = surrogate.interactions(data, [*first, *(e for e in forest.table["effect"] if e not in first)])
    if len(pairs):
        table = pairs.rename(columns={"h": "share"}).assign(kind="pair").sort_values("share", ascending=False)
        caption = (
            f"Friedman's H of pairs: the part of two parameters' joint effect that is not the sum of their single effects, in a Gaussian "
            f"process on {min(n, surrogate.MOST)} finished configurations. Bars: 95% intervals from refits on resampled configurations. "
            f"{captions.EXPLORATION}"
        )
        drawn = strength_figure.draw_strength(table, "H-statistic (0: effects add up; 1: pure interaction)", percent=False)
        found.append(Figure(slug(prefix, "6b-pairs"), "Interaction of pairs", caption, table, drawn, 460, 820))
    return found


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{c: 100 * table[c] for c in ("share", "low", "high")})


def _mechanism(frame: StudyFrame, shown: Cells | None, prefix: str) -> list[Figure]:
    said, by = words(frame.metric), shown.x if shown is not None else None
    found = mechanism_figure.mechanism(frame, by)
    if found is None:
        return []
    span = f"{signed(found.correlation, 2)} [{signed(found.low, 2)}, {signed(found.high, 2)}]"
    caption = (
        f"{said.name} of the student against the mean entropy of its teachers' labels softened at its temperature, on validation images. "
        f"One dot a run ({len(found.table)} runs); Spearman's correlation over {found.configurations} configurations: {span}, "
        f"95% bootstrap interval. {captions.EXPLORATION if frame.exploration else ''}"
    ).strip()
    drawn = mechanism_figure.draw_mechanism(found, by, said)
    return [Figure(slug(prefix, "7-mechanism"), "Mechanism: softness of the teacher's labels", caption, found.table, drawn, 480, 900)]


def _decision(frame: StudyFrame, found: Candidates, prefix: str) -> Figure:
    said = words(frame.metric)
    total = len(found.table)
    counted = (
        f"The {decision_figure.SHOWN} best of {total}" if total > decision_figure.SHOWN else f"All {total}" if total > 1 else "The one"
    )
    drawn_as = "mean and 95% interval" if found.table["half"].notna().any() else "means"
    parts = [f"{counted} configuration{'s' * (total > 1)}: {drawn_as}"]
    n = (
        f"{int(found.table['n'].min())} to {int(found.table['n'].max())}"
        if found.table["n"].nunique() > 1
        else f"{int(found.table['n'].iloc[0])}"
    )
    parts[0] += (
        f" (n = {n} {'fresh ' * (found.source == 'confirm')}{'seed' if n == '1' else 'seeds'}; {captions.split_words(frame.metric)})."
    )
    if found.can_tell:
        parts.append(f"P(best): share of bootstrap draws over seeds that it wins ({found.data.noise.df:.3g} degrees of freedom).")
    else:
        parts.append("Every configuration has one seed, so there are no intervals and no P(best): the data cannot tell which is best.")
    if found.cost_name is not None:
        parts.append(f"Left: {COSTS[found.cost_name]} against {said.lower}, with the Pareto front.")
        cheapest = cheapest_as_good(found)
        if cheapest is not None:
            parts.append(f"Circled: the cheapest of those not told apart from the best ({readable(str(cheapest['config']))}).")
    parts.append(
        "These are the search's own numbers: the winner is partly luck until it is confirmed on fresh seeds." * (found.source == "search")
    )
    drawn = decision_figure.draw_decision(found, said)
    costly = found.cost_name is not None
    least, most = (860, 1120) if costly else (480, 820)
    caption = " ".join(p for p in parts if p)
    return Figure(slug(prefix, "8-decision"), "Which one to take", caption, decision_figure.decision_table(found), drawn, least, most)


def _course(frame: StudyFrame, data: surrogate.Inputs, shown: Cells | None, prefix: str) -> list[Figure]:
    said, counts = words(frame.metric), frame.counts()
    found = []
    if len(frame.curves):
        states = ", ".join(f"{counts[s]} {w}" for s, w in (("COMPLETE", "finished"), ("PRUNED", "pruned"), ("FAIL", "failed")) if counts[s])
        caption = (
            f"{said.name} by epoch, first seed of each trial ({states}; {captions.split_words(frame.metric)}). The band holds the middle "
            f"80% of finished trials.{' The axis leaves out the lowest 2% of values.' * (len(frame.curves) >= curves.ENOUGH)} "
            f"At most {curves.DRAWN_AT_MOST} curves of a kind are drawn, evenly over the study; the CSV has all."
        )
        drawn = curves.draw_curves(frame, said)
        found.append(Figure(slug(prefix, "9a-curves"), "Learning curves", caption, curves.curves_table(frame), drawn, 480, 900))
    ranks = early.rank_correlation(frame)
    if len(ranks):
        caption = (
            f"Whether early epochs foretell the end: Spearman's correlation of each epoch with the last over "
            f"{int(ranks['n'].iloc[0])} finished trials (first seed), 95% bootstrap band over trials. "
            "Low early values mean that pruning then would go by luck."
        )
        caption += " Pruned trials are missing, so for early epochs it is of survivors only." * bool(counts["PRUNED"])
        found.append(Figure(slug(prefix, "9b-early"), "Early epochs against the end", caption, ranks, trust.draw_early(ranks), 420, 760))
    predicted = surrogate.cross_validated(data) if not frame.grid else None
    if predicted is not None:
        worth = "" if predicted.r2 >= surrogate.GOOD_ENOUGH else " It predicts too little for its picture of the space to be trusted."
        caption = (
            f"Gaussian process (Matérn 5/2 on the declared scales): five-fold cross-validated prediction ± 1 SD against the observed mean, "
            f"n = {len(predicted.table)} configurations, R² = {signed(predicted.r2, 2).lstrip('+')}.{worth} {captions.EXPLORATION}"
        )
        drawn = trust.draw_predicted(predicted, said)
        found.append(
            Figure(slug(prefix, "9c-surrogate"), "Surrogate: predicted against observed", caption, predicted.table, drawn, 420, 700)
        )
        found += _surface(frame, data, shown, predicted.r2, prefix)
    if sum(counts.values()):
        caption = (
            f"Final {said.lower} of {sum(counts.values())} trials in their order, mean over a trial's seeds "
            f"({captions.split_words(frame.metric)}). "
            + "Pruned and failed trials have no final value and stand as ticks at the bottom. " * bool(counts["PRUNED"] + counts["FAIL"])
            + "The best so far rises with luck as well as with better configurations."
        )
        drawn = curves.draw_history(frame, said)
        found.append(Figure(slug(prefix, "9d-history"), "Course of the search", caption, curves.history_table(frame), drawn, 480, 900))
    return found


def _surface(frame: StudyFrame, data: surrogate.Inputs, shown: Cells | None, r2: float, prefix: str) -> list[Figure]:
    """The surrogate's picture of the two parameters; only where it predicts well enough to be looked at."""
    table = surrogate.surface(frame, data, shown.x, shown.y) if shown is not None and r2 >= surrogate.GOOD_ENOUGH else None
    if table is None or shown is None or table.empty:
        return []
    said = words(frame.metric)
    names = unescaped(f"{short_words(shown.x.name, shown.x.title)} × {short_words(shown.y.name, shown.y.title)}")
    caption = (
        f"What the Gaussian process expects of {said.lower}{f' ({said.unit})' if said.unit else ''} for {names}, averaged over the other "
        f"parameters as they were tried, with its SD; n = {min(len(data.y), surrogate.MOST)} configurations, cross-validated "
        f"R² = {r2:.2f}. A model, not measurements: cells that were never tried have a value here too. {captions.EXPLORATION}"
    )
    least, most = heatmap.natural_width(len(shown.x.labels))
    drawn = trust.draw_surface(table, shown.x, shown.y, said)
    return [
        Figure(slug(prefix, "9e-surface"), "Surrogate: the surface it sees", caption, table.drop(columns=["xi", "yi"]), drawn, least, most)
    ]
