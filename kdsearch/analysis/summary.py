"""What the data say, in plain sentences each with its numbers; and, where the data cannot tell, that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdsearch.analysis.cells import Cells
from kdsearch.analysis.confirm import Confirmation, Interval
from kdsearch.analysis.effects import RESIDUAL, SEED, Effects
from kdsearch.analysis.frame import StudyFrame, baseline_text, readable
from kdsearch.analysis.panels import Difference
from kdsearch.analysis.ridge import Ridge
from kdsearch.analysis.select import COSTS, Candidates, cheapest_as_good
from kdsearch.analysis.surrogate import GOOD_ENOUGH, Importances

DIFFERENT = 0.01
"""Level of Levene's test below which unequal noise is reported."""


def summary(
    frame: StudyFrame,
    cells: Cells | None,
    found: Candidates,
    strengths: Effects | None,
    ridge: Ridge | None,
    forest: Importances | None,
    unit: str,
) -> list[str]:
    """Sentences about one stratum, most useful first. ``unit`` is the objective's (``%``), put after its numbers."""
    if found.table.empty:
        return [_nothing(frame)]
    sentences = [_best(found, unit), *_ties(found, frame)]
    if frame.exploration:
        why = "an adaptive search chose what to try" + (", and pruning took away what looked bad early" if _pruned(frame) else "")
        sentences.append(
            f"Exploration, not proof: {why}, so the means of what finished are too good; confirm the best on fresh seeds, "
            "or run a grid, before claiming a difference."
        )
    if strengths is not None:
        sentences += _strengths(strengths, cells)
    elif frame.grid and len(frame.configs) > 1 and cells is not None and cells.noise.df <= 0:
        sentences.append("How much each parameter matters cannot be told: every cell has one seed, so noise is not measured.")
    if forest is not None:
        sentences.append(_forest(forest))
    if ridge is not None and cells is not None:
        sentences += _ridge(ridge, cells, frame.exploration)
    sentences += _cheapest(found, unit)
    if cells is not None and math.isfinite(cells.noise.levene) and cells.noise.levene < DIFFERENT:
        sentences.append(
            f"Cells differ in their noise (Levene's test, p = {cells.noise.levene:.2g}): "
            "pooled intervals are too wide or too narrow for some."
        )
    return sentences


def _nothing(frame: StudyFrame) -> str:
    counts = frame.counts()
    if sum(counts.values()) == 0:
        return "No trial yet: nothing can be said."
    parts = [
        f"{counts[s]} {w}"
        for s, w in (("PRUNED", "pruned"), ("FAIL", "failed"), ("RUNNING", "running"), ("WAITING", "waiting"))
        if counts[s]
    ]
    return f"No trial has finished ({', '.join(parts)}): nothing can be said, as a pruned trial's last value is not a final one."


def _pruned(frame: StudyFrame) -> bool:
    return bool((frame.search["state"] == "PRUNED").any())


def _digits(found: Candidates) -> int:
    half = float(found.table["half"].median()) if found.table["half"].notna().any() else math.nan
    return min(max(1 - math.floor(math.log10(half)), 0), 4) if math.isfinite(half) and half > 0 else 2


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "+")


def _best(found: Candidates, unit: str) -> str:
    row, digits = found.table.iloc[0], _digits(found)
    spread = f" ± {row['half']:.{digits}f}" if math.isfinite(row["half"]) else ""
    text = (
        f"Best mean: {readable(str(row['config']))} with {row['mean']:.{digits}f}{spread}{' ' + unit if unit else ''} (n = {int(row['n'])}"
    )
    text += ", confirmed on fresh seeds)" if found.source == "confirm" else ")"
    if found.baseline is not None and math.isfinite(row["difference"]):
        diff, half = float(row["difference"]), float(row["difference_half"])
        points = "points" if unit == "%" else unit
        text += f", {_signed(diff, digits)}"
        text += f" [{_signed(diff - half, digits)}, {_signed(diff + half, digits)}]" if math.isfinite(half) else ""
        text += f" {points} against the {baseline_text(found.baseline.name)} "
        text += f"({found.baseline.mean:.{digits}f}, n = {len(found.baseline.by_seed)})"
        if math.isfinite(half) and diff - half <= 0 <= diff + half:
            text += "; the data cannot tell whether there is a difference"
    return text + "."


def _ties(found: Candidates, frame: StudyFrame) -> list[str]:
    total = len(found.data.names)
    if not found.can_tell:
        return [
            f"{len(found.table)} configurations finished, each on one seed: there is no measure of noise, so the data cannot tell "
            "which is best; add seeds or confirm the best ones."
        ]
    if total < 2:
        return []
    tied = int(found.table["tied"].sum())
    top = float(found.table["p_best"].iloc[0])
    probability = f"P(best) {top:.0%}" if top >= 0.005 else "P(best) below 1%"
    n = int(found.data.counts.max())
    if tied == 1:
        return [f"It is told apart from all {total - 1} others (95%, all together; {probability})."]
    if tied >= total:
        return [f"Not enough seeds (n = {n}) to tell any of the {total} configurations apart from the best; it has {probability}."]
    few = {2: "two", 3: "three", 4: "four", 5: "five"}.get(tied, str(tied))
    return [
        f"Not enough seeds (n = {n}) to tell the best {few} of {total} configurations apart (95%, all together); "
        f"the best mean has {probability}."
    ]


def _share(row: object, low: float, high: float) -> str:
    return f"{100 * float(str(row)):.0f}% [{100 * low:.0f}, {100 * high:.0f}]"


def _strengths(found: Effects, cells: Cells | None) -> list[str]:
    table = found.table
    rows = table[~table["effect"].isin([SEED, RESIDUAL])]
    noise = float(table.loc[table["effect"].isin([SEED, RESIDUAL]), "share"].sum())
    told = rows[rows["p"] < 0.05].head(3)
    sentences = []
    if len(told):
        parts = [f"{r['effect']} explains {_share(r['share'], r['low'], r['high'])}" for _, r in told.iterrows()]
        sentences.append(f"{', '.join(parts)} of the variance; seeds and noise {100 * noise:.0f}%.")
        sentences[0] = sentences[0][0].upper() + sentences[0][1:]
    else:
        sentences.append(
            f"The data cannot tell that any parameter matters: seeds and noise are {100 * noise:.0f}% of the variance "
            "(no effect has p < 0.05)."
        )
    if cells is not None:
        pair = found.share(cells.x.name, cells.y.name)
        if pair is not None and pair["p"] >= 0.05:
            sentences.append(
                f"Whether {cells.x.name} and {cells.y.name} interact cannot be told: "
                f"{_share(pair['share'], pair['low'], pair['high'])} of the variance, p = {pair['p']:.2g}."
            )
    if found.factorial.left_out:
        sentences.append(f"Shares leave out {', '.join(found.factorial.left_out)}, where runs are missing.")
    return sentences


def _forest(forest: Importances) -> str:
    if not forest.shown:
        return (
            f"How much each parameter matters cannot be told: a random forest explains too little of what it has not seen "
            f"(out-of-bag R² {forest.r2:.2f}, {GOOD_ENOUGH} is asked)."
        ).replace("-0", "−0")
    parts = [f"{r['effect']} {_share(r['share'], r['low'], r['high'])}" for _, r in forest.table.head(3).iterrows()]
    return f"Of what a random forest can explain (out-of-bag R² {forest.r2:.2f}), {', '.join(parts)}."


def _ridge(found: Ridge, cells: Cells, exploration: bool) -> list[str]:
    table, x, y = found.table, cells.x.name, cells.y.name
    if len(table) < 2 or not math.isfinite(found.slope):
        return []
    first, last = table.iloc[0], table.iloc[-1]
    ends = f"{first['best']} at {x} {first['x']} to {last['best']} at {x} {last['x']}"
    if not math.isfinite(found.slope_low):
        return [f"Best {y} by {x}: from {ends}; without a second seed the data cannot tell whether it moves."]
    span = f"rank correlation {found.slope:.2f} [{found.slope_low:.2f}, {found.slope_high:.2f}]".replace("-", "−")
    where = "Among what was explored, the best" if exploration else "The best"
    if found.slope_low > 0:
        return [f"{where} {y} rises with {x}: from {ends} ({span})."]
    if found.slope_high < 0:
        return [f"{where} {y} falls with {x}: from {ends} ({span})."]
    return [f"Whether the best {y} moves with {x} cannot be told: it goes from {ends} ({span})."]


def _cheapest(found: Candidates, unit: str) -> list[str]:
    row = cheapest_as_good(found)
    if row is None or len(found.tied) < 2 or found.cost_name is None:
        return []
    best, digits = found.table.iloc[0], _digits(found)
    if row["config"] == best["config"] or not best["cost"] > 0:
        return []
    return [
        f"Cheapest among those not told apart from the best: {readable(str(row['config']))}, "
        f"{row['mean']:.{digits}f}{' ' + unit if unit else ''}, "
        f"at {row['cost'] / best['cost']:.0%} of the best mean's {COSTS[found.cost_name].partition(' (')[0]}."
    ]


def confirmed_sentence(found: Confirmation, study: str) -> str:
    """What a confirmation on fresh seeds says, with the luck that the search's own value held."""
    if found.test is None:
        return "A confirmation has begun; its report seeds have not finished."
    chosen = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in found.chosen.params.items()
    )
    metric, percent = found.reported.replace("_", " "), "%" if "accuracy" in found.reported else ""

    def spread(one: Interval) -> str:
        return f" [{one.low:.2f}, {one.high:.2f}]" if math.isfinite(one.low) else ""

    text = f"Confirmed on fresh seeds: {chosen or study} has {metric} {found.test.mean:.2f}{spread(found.test)} {percent}".rstrip()
    text += f" (n = {found.test.n})"
    for name, one in list(found.differences.items())[:1]:
        text += f", {_signed(one.mean, 2)}{spread(one).replace('-', '−')} against the {baseline_text(name)}, paired by seed"
        if math.isfinite(one.low) and one.low <= 0 <= one.high:
            text += " (the data cannot tell whether there is a difference)"
    if found.shrinkage is not None and math.isfinite(found.shrinkage):
        text += f"; on validation data, fresh seeds are {_signed(-found.shrinkage, 2)} from what the search saw"
    return text + "."


def panel_sentences(found: Sequence[Difference], points: str) -> list[str]:
    """A sentence for each difference of panels: over all shared cells, and how many cells are told apart from 0."""
    sentences = []
    for one in found:
        if one.table.empty:
            continue
        apart = int(((one.table["low"] > 0) | (one.table["high"] < 0)).sum())
        cells = f"{apart} of {len(one.table)} cells differ at 95% each"
        if math.isfinite(one.overall_half):
            low, high = one.overall - one.overall_half, one.overall + one.overall_half
            verdict = "" if low > 0 or high < 0 else "; the data cannot tell whether there is a difference"
            spread = f" [{_signed(low, 2)}, {_signed(high, 2)}]"
            sentences.append(
                f"{one.title}: {_signed(one.overall, 2)}{spread} {points} over all shared cells, paired by seed; {cells}{verdict}."
            )
        else:
            mean = float(one.table["diff"].mean())
            sentences.append(
                f"{one.title}: {_signed(mean, 2)} {points} over {len(one.table)} shared cells; "
                "without shared seeds no interval for all together."
            )
    return sentences
