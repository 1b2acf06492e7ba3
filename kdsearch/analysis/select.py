"""Choosing: the best configurations, how sure that is, what they cost, and the cheapest that is as good as can be told.

The winner of a noisy search is not the best configuration until it was run again: where ``confirm`` rows exist (fresh seeds), they
rank and give the intervals; until then the search's own values do, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdsearch.analysis.cells import BaselineValues, main_baseline
from kdsearch.analysis.confirm import REPORT_SEEDS
from kdsearch.analysis.frame import StudyFrame, study_frame
from kdsearch.analysis.noise import DRAWS, Pooled, Replicates, pooled, pooled_by_seed, replicates, told_apart_from_best

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

COSTS = {
    "model_kib": "model size (KiB)",
    "multiply_adds": "multiply-adds of the student",
    "parameters": "parameters of the student",
    "train_seconds": "training time per seed (s)",
    "seconds": "training time per seed (s)",
}
"""Costs a decision can be made by, cheapest metric first in meaning; the first that varies between configurations is used."""


@dataclass(frozen=True)
class Selected:
    """One configuration as :func:`best` ranks it.

    ``mean, low, high`` are in the objective's unit (95% interval, pooled noise, ``df`` degrees of freedom); ``p_best`` is the share of
    bootstrap draws that it wins; ``tied`` says that the data do not tell it apart from the best. ``source`` is ``confirm`` where the
    numbers come from fresh seeds, else ``search``. NaN where the data cannot say.
    """

    rank: int
    stratum: str
    number: int
    config: str
    params: dict[str, Any]
    n: int
    seeds: list[int]
    mean: float
    sd: float
    low: float
    high: float
    df: float
    difference: float
    difference_low: float
    difference_high: float
    p_best: float
    tied: bool
    source: str
    search_mean: float
    keys: dict[str, str]
    metrics: dict[str, float]

    @property
    def value(self) -> float:
        """The mean that ranks it."""
        return self.mean

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them: None in place of NaN."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        return {**plain, "value": plain["mean"]}


@dataclass(frozen=True)
class Candidates:
    """Every finished configuration of one stratum with what choosing needs; ``table`` is best first.

    Columns: ``config, n, mean, sd, half, low, high, p_best, tied, difference, difference_half, cost, on_front, seconds``, ``p.*``,
    ``m.*``. ``cost_name`` is the key of :data:`COSTS` used, or None where no cost differs.
    """

    table: pd.DataFrame
    data: Replicates
    source: str
    cost_name: str | None
    baseline: BaselineValues | None

    @property
    def tied(self) -> pd.DataFrame:
        """Configurations not told apart from the best, best first; only the best where nothing is known about noise."""
        return self.table[self.table["tied"]]

    @property
    def can_tell(self) -> bool:
        """Whether there is any measure of noise."""
        return self.data.noise.df > 0


def by_configuration(rows: pd.DataFrame) -> dict[str, dict[float, float]]:
    """``{configuration: {seed: final value}}`` of finished rows."""
    done = rows[rows["finished"]]
    found: dict[str, dict[float, float]] = {}
    for config, seed, value in zip(done["config"], done["seed"], done["value"], strict=True):
        found.setdefault(str(config), {})[float(seed)] = float(value)
    return found


def candidates(frame: StudyFrame, *, confirmed: bool = True, seed: int = 0) -> Candidates:
    """All configurations that can be chosen, best first.

    In an adaptive study only configurations on the largest number of seeds compete for P(best), as a pruned one never got them.
    ``confirmed`` uses confirm rows, where there are any, in place of the search's.
    """
    rows = frame.table[(frame.table["role"] == "confirm") & frame.table["finished"]]
    if (choice := rows["seed"] < REPORT_SEEDS).any():
        rows = rows[choice]  # the rest has no part in the choice, see kdsearch.analysis.confirm
    if (rows["seed"] < REPORT_SEEDS).any():  # choice seeds choose; those that give the interval have no part in it
        rows = rows[rows["seed"] < REPORT_SEEDS]
    source = "confirm" if confirmed and not rows.empty else "search"
    if source == "search":
        rows = frame.finished
    values = by_configuration(rows)
    most = max((len(v) for v in values.values()), default=0)
    compared = values if frame.grid else {config: v for config, v in values.items() if len(v) == most}
    data = replicates(compared)
    table = _candidate_table(rows, values)
    table = table.sort_values("mean", ascending=not frame.maximize, kind="stable").reset_index(drop=True)
    noise = _noise(compared, frame.grid)
    table["half"] = [noise.half_width(n) for n in table["n"]]
    table["low"], table["high"] = table["mean"] - table["half"], table["mean"] + table["half"]
    table["p_best"] = table["config"].map(p_best(data, frame.maximize, seed=seed)).astype(float)
    apart = dict(zip(data.names, told_apart_from_best(data, frame.maximize), strict=True))
    if data.noise.df > 0:
        table["tied"] = [not apart.get(config, True) for config in table["config"]]
    else:
        table["tied"] = np.arange(len(table)) == 0
    baseline = main_baseline(frame)
    differences = _differences(values, baseline, noise, frame.grid)
    table["difference"] = table["config"].map({c: d[0] for c, d in differences.items()}).astype(float)
    table["difference_half"] = table["config"].map({c: d[1] for c, d in differences.items()}).astype(float)
    cost_name = _cost_name(table)
    table["cost"] = table[_cost_column(cost_name)] if cost_name else math.nan
    table["on_front"] = pareto(table["cost"].to_numpy(float), table["mean"].to_numpy(float), frame.maximize)
    return Candidates(table, data, source, cost_name, baseline)


def _candidate_table(rows: pd.DataFrame, values: Mapping[str, Mapping[float, float]]) -> pd.DataFrame:
    names = list(values)
    found = [np.array(list(by_seed.values())) for by_seed in values.values()]
    groups = rows.groupby("config", sort=False)
    table = {
        "config": names,
        "number": groups["number"].min().reindex(names).to_numpy(),
        "n": [len(f) for f in found],
        "mean": [float(f.mean()) for f in found],
        "sd": [float(f.std(ddof=1)) if len(f) > 1 else math.nan for f in found],
        "seconds": groups["seconds"].mean().reindex(names).to_numpy(float),
    }
    first = rows.drop_duplicates("config").set_index("config").reindex(names)
    table |= {c: first[c].to_numpy() for c in rows.columns if c.startswith("p.")}
    table |= {c: groups[c].mean().reindex(names).to_numpy(float) for c in rows.columns if c.startswith("m.")}
    return pd.DataFrame(table)


def p_best(data: Replicates, maximize: bool, *, seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """Share of bootstrap draws over seeds that each configuration wins; NaN without replicates, 1 for a single configuration."""
    if len(data.names) == 1:
        return {data.names[0]: 1.0}
    if data.noise.df <= 0:
        return dict.fromkeys(data.names, math.nan)
    drawn = data.draw_means(np.random.default_rng(seed), draws)
    winners = np.argmax(drawn if maximize else -drawn, axis=1)
    return dict(zip(data.names, (np.bincount(winners, minlength=len(data.names)) / draws).tolist(), strict=True))


def pareto(cost: np.ndarray, value: np.ndarray, maximize: bool) -> np.ndarray:
    """Which points no other beats: none is both cheaper (or as cheap) and better. Shape (n,); NaN is never on the front."""
    score = value if maximize else -value
    front = np.zeros(len(cost), dtype=bool)
    usable = np.flatnonzero(np.isfinite(cost) & np.isfinite(score))
    best = -math.inf
    for i in usable[np.lexsort((-score[usable], cost[usable]))]:
        if score[i] > best:
            front[i], best = True, float(score[i])
    return front


def cheapest_as_good(found: Candidates) -> pd.Series | None:
    """The cheapest configuration among those not told apart from the best; None without a cost or a measure of noise."""
    tied = found.tied
    tied = tied[np.isfinite(tied["cost"].to_numpy(float))]
    if found.cost_name is None or not found.can_tell or tied.empty:
        return None
    cheapest: pd.Series = tied.sort_values("cost", kind="stable").iloc[0]
    return cheapest


def best(rows: Sequence[TrialRow], study: Study, stratum: str = "", top: int = 5, *, confirmed: bool = True) -> list[Selected]:
    """The ``top`` best configurations of a stratum, best first; empty where none has finished. Used by ``kdsearch best``.

    ``confirmed=False`` ranks by the search alone, which is what a confirmation chooses its configurations by.
    """
    return choices(study_frame(study, rows, stratum), rows, top, confirmed=confirmed)


def choices(frame: StudyFrame, rows: Sequence[TrialRow], top: int = 5, *, confirmed: bool = True) -> list[Selected]:
    """As :func:`best`, from a frame that is made already."""
    found = candidates(frame, confirmed=confirmed)
    search = {config: float(np.mean(list(v.values()))) for config, v in by_configuration(frame.search).items()}
    role = found.source
    params = {row.number: row.params for row in rows if row.stratum == frame.stratum and row.role == role}
    source_rows = frame.table[(frame.table["role"] == role) & frame.table["finished"]]
    out = []
    for rank, (_, row) in enumerate(found.table.head(top).iterrows(), start=1):
        mine = source_rows[source_rows["config"] == row["config"]].sort_values("seed")
        metrics = {c[2:]: float(row[c]) for c in found.table.columns if c.startswith("m.") and pd.notna(row[c])}
        out.append(
            Selected(
                rank=rank,
                stratum=frame.stratum,
                number=int(row["number"]),
                config=str(row["config"]),
                params=dict(params.get(int(row["number"]), {})),
                n=int(row["n"]),
                seeds=[int(s) for s in mine["seed"]],
                mean=float(row["mean"]),
                sd=float(row["sd"]),
                low=float(row["low"]),
                high=float(row["high"]),
                df=float(found.data.noise.df),
                difference=float(row["difference"]),
                difference_low=float(row["difference"] - row["difference_half"]),
                difference_high=float(row["difference"] + row["difference_half"]),
                p_best=float(row["p_best"]),
                tied=bool(row["tied"]),
                source=found.source,
                search_mean=search.get(str(row["config"]), math.nan),
                keys={str(int(s)): str(k) for s, k in zip(mine["seed"], mine["key"], strict=True) if pd.notna(k)},
                metrics=metrics,
            )
        )
    return out


def _noise(values: Mapping[str, Mapping[float, float]], grid: bool) -> Pooled:
    """Noise of the means: as in the cells of a grid, whose configurations share their seeds; else of independent groups."""
    if grid and values:
        seeds = sorted({seed for by in values.values() for seed in by})
        return pooled_by_seed(np.array([[by.get(seed, math.nan) for seed in seeds] for by in values.values()]))
    return pooled([np.array(list(by.values())) for by in values.values()])


def _cost_column(name: str) -> str:
    return name if name == "seconds" else f"m.{name}"


def _cost_name(table: pd.DataFrame) -> str | None:
    for name in COSTS:
        column = _cost_column(name)
        if column in table and table[column].notna().sum() >= 2 and table[column].nunique() > 1:
            return name
    return None


def _differences(
    values: Mapping[str, Mapping[float, float]], baseline: BaselineValues | None, noise: Pooled, grid: bool
) -> dict[str, tuple[float, float]]:
    """Difference to the baseline and half of its 95% interval: paired by seed where all seeds are shared, else of the means."""
    if baseline is None or not baseline.by_seed:
        return {}
    pairs = {c: {s: v - baseline.by_seed[s] for s, v in by.items() if s in baseline.by_seed} for c, by in values.items()}
    paired_noise = _noise({c: by for c, by in pairs.items() if by}, grid)
    out = {}
    for config, by_seed in values.items():
        if len(pairs[config]):
            out[config] = (float(np.mean(list(pairs[config].values()))), paired_noise.half_width(len(pairs[config])))
        else:
            n = 1 / (1 / len(by_seed) + 1 / len(baseline.by_seed))
            out[config] = (float(np.mean(list(by_seed.values()))) - baseline.mean, noise.half_width(n))
    return out
