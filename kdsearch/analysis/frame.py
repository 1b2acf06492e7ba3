"""The trials of one stratum as a tidy table: one row per (trial, seed), parameters on their declared scales.

Everything else in :mod:`kdsearch.analysis` reads a :class:`StudyFrame`; it knows neither files nor storages.

Columns of :attr:`StudyFrame.table`:

=================  ==============================================================================================
``number``         trial number in its Optuna study
``role``           ``search``, ``baseline``, ``confirm`` or ``final``
``baseline``       the baseline's name, or None
``state``          COMPLETE, PRUNED, FAIL, RUNNING, WAITING: the trial's, not the seed's
``config``         identity of the configuration (its parameters, seed left out)
``seed``           seed of the run, NaN for a trial that finished none
``finished``       whether this seed ran to its last epoch; only then is ``value`` a number
``value``          final objective of this seed
``key``            recipe key of this seed's run, or None
``seconds``        training seconds of this seed's run, NaN where not recorded
``p.NAME``         parameter: a number for a range, the label's text for choices, None where it does not exist
``m.NAME``         small metrics recorded with the seed (``teacher_accuracy``, ``model_kib``, ...)
=================  ==============================================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

LEVELS_AT_MOST = 8
"""A range with no more distinct values than this (a step, a grid) is shown at its values; beyond, in bins."""

INTERRUPTED = "interrupted"
"""Reason of a trial that was cut off and is run again under another number: not a failed one."""

_STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")


def label_text(value: Any) -> str:
    """How a parameter's value is written in tables: ``4`` for 4.0, ``none`` for None, ``yes``/``no`` for booleans."""
    if value is None:
        return "none"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.integer | np.floating):
        return f"{float(value):.6g}"
    return str(value)


def baseline_text(name: str) -> str:
    """``no-KD baseline`` for ``no_kd``."""
    return f"{'no-KD' if name.lower() in ('no_kd', 'nokd') else name.replace('_', ' ')} baseline"


def readable(config: str) -> str:
    """A configuration for sentences: ``temperature 2.58, width 1.5`` for ``temperature=2.5771 width=1.5`` (three digits)."""
    parts = []
    for part in config.split(" "):
        name, sign, value = part.partition("=")
        try:
            parts.append(f"{name} {float(value):.3g}" if sign else part)
        except ValueError:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(float(value)) else None


@dataclass(frozen=True)
class Axis:
    """One parameter as the analysis sees it.

    ``labels`` are the choices' texts in display order (numbers ascending, else as declared) and ``numbers`` their values where all
    are numbers; both are empty for a range, which has ``low`` and ``high`` instead. ``log`` holds for every use of the parameter.
    """

    name: str
    kind: Literal["levels", "range"]
    labels: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    ordered: bool = False
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    step: float | None = None
    integer: bool = False
    parent: tuple[str, str] | None = None
    title: str = ""
    unit: str = ""

    @property
    def column(self) -> str:
        """Column of :attr:`StudyFrame.table` that holds this parameter."""
        return f"p.{self.name}"

    def scaled(self, values: Iterable[Any]) -> np.ndarray:
        """Values as numbers in [0, 1] on the declared scale, shape (n,): logarithmic if declared so, ranks for choices; absent NaN."""
        if self.kind == "levels":
            rank = {label: i / max(len(self.labels) - 1, 1) for i, label in enumerate(self.labels)}
            return np.array([rank.get(label_text(v), math.nan) if v is not None else math.nan for v in values], dtype=float)
        raw = np.array([math.nan if v is None else float(v) for v in values], dtype=float)
        low, high = self.low, self.high
        if self.log:
            raw, low, high = np.log(raw), math.log(low), math.log(high)
        return (raw - low) / ((high - low) or 1.0)


def axis_of(parameter: Any, labels: Sequence[Any] = ()) -> Axis:
    """The :class:`Axis` of a study's parameter; ``labels`` add choices that only the trials know."""
    parent = (parameter.parent[0], label_text(parameter.parent[1])) if parameter.parent else None
    title, unit = str(parameter.title or ""), str(parameter.unit or "")
    if parameter.kind in ("float", "int"):
        return Axis(
            parameter.name,
            "range",
            ordered=True,
            low=float(parameter.low),
            high=float(parameter.high),
            log=bool(parameter.log),
            step=parameter.step,
            integer=parameter.kind == "int",
            parent=parent,
            title=title,
            unit=unit,
        )
    return replace(
        levels_axis(parameter.name, [*parameter.choices, *labels], ordered=bool(parameter.ordered), parent=parent), title=title, unit=unit
    )


def levels_axis(name: str, choices: Sequence[Any], *, ordered: bool = False, parent: tuple[str, str] | None = None) -> Axis:
    """An axis of choices: numbers ascending, anything else in the order given, repeated ones once."""
    unique = {label_text(choice): choice for choice in choices}
    numbers = [_number(choice) for choice in unique.values()]
    if unique and all(number is not None for number in numbers):
        pairs = sorted(zip(numbers, unique, strict=True))
        values = tuple(float(number) for number, _ in pairs if number is not None)
        return Axis(name, "levels", tuple(label for _, label in pairs), values, ordered=True, parent=parent)
    return Axis(name, "levels", tuple(unique), ordered=ordered, parent=parent)


@dataclass(frozen=True)
class StudyFrame:
    """The trials of one stratum of one study, ready for statistics.

    ``grid`` says that the study is a factorial (every cell on every seed); ``pruner`` is its pruner's name. ``maximize`` is the
    objective's direction. ``table`` has the columns of the module's text.
    """

    study: str
    stratum: str
    metric: str
    maximize: bool
    grid: bool
    axes: Mapping[str, Axis]
    table: pd.DataFrame
    pruner: str = "none"
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["number", "config", "state", "epoch", "value"]))

    @cached_property
    def search(self) -> pd.DataFrame:
        """Rows of the search itself."""
        return self.table[self.table["role"] == "search"]

    @cached_property
    def finished(self) -> pd.DataFrame:
        """Rows of the search that have a final value."""
        return self.search[self.search["finished"]]

    @cached_property
    def exploration(self) -> bool:
        """Whether values are those a search chose to look at: adaptive, or thinned by pruning. No claims from these."""
        return not self.grid or bool((self.search["state"] == "PRUNED").any())

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration with a final value, best first: ``config, n, mean, sd, seconds``, ``p.*``, mean of ``m.*``."""
        done = self.finished
        columns = ["config", "n", "mean", "sd", "seconds", "number"]
        if done.empty:
            return pd.DataFrame(columns=[*columns, *(axis.column for axis in self.axes.values())])
        grouped = done.groupby("config", sort=False)
        out = pd.DataFrame(
            {
                "n": grouped["seed"].nunique(),
                "mean": grouped["value"].mean(),
                "sd": grouped["value"].std(ddof=1),
                "seconds": grouped["seconds"].mean(),
                "number": grouped["number"].min(),
            }
        )
        for axis in self.axes.values():
            out[axis.column] = grouped[axis.column].first()
        for column in done.columns:
            if column.startswith("m."):
                out[column] = grouped[column].mean()
        return out.sort_values("mean", ascending=not self.maximize, kind="stable").reset_index()

    def counts(self) -> dict[str, int]:
        """Number of search trials by state; the sum is the number of trials."""
        states = self.search.drop_duplicates("number")["state"].value_counts()
        return {state: int(states.get(state, 0)) for state in _STATES}


def study_frame(study: Study, rows: Sequence[TrialRow], stratum: str = "") -> StudyFrame:
    """The tidy table of one stratum.

    ``rows`` may hold other strata, which are left out. A repeated run (same configuration, seed and recipe key) counts once.
    Values of a pruned or failed trial count only for seeds that it finished: the last value before a prune is never a final one.
    """
    chosen = next((s for s in study.strata_list() if s.name == stratum), None)
    fixed = dict(chosen.values) if chosen is not None else {}
    mine = [row for row in rows if row.stratum == stratum and not (row.state == "FAIL" and row.reason == INTERRUPTED)]
    parameters = [p for p in study.parameters(chosen) if p.name not in fixed] if chosen is not None else []
    axes = {p.name: axis_of(p, _seen(mine, p.name) if p.kind == "categorical" else ()) for p in parameters}
    records = [record for row in mine for record in _records(row, axes)]
    pruner = getattr(study.pruner, "name", study.pruner)
    return StudyFrame(
        study=study.name,
        stratum=stratum,
        metric=study.objective.metric,
        maximize=study.objective.direction == "maximize",
        grid=bool(study.is_grid),
        axes=axes,
        table=_table(records, axes),
        pruner=str(pruner or "none"),
        curves=_curves(mine, axes),
    )


def _seen(rows: Sequence[TrialRow], name: str) -> list[Any]:
    return [row.params[name] for row in rows if row.role != "baseline" and name in row.params]


def _config(row: TrialRow, axes: Mapping[str, Axis]) -> str:
    parts = [f"{name}={_one_word(label_text(row.params[name]))}" for name in axes if name in row.params]
    return " ".join([f"[{row.baseline}]"] * (row.role == "baseline") + parts) or "as-written"


def _one_word(label: str) -> str:
    return re.sub(r"[\s=]+", "_", label)


def _records(row: TrialRow, axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    common: dict[str, Any] = {
        "number": row.number,
        "role": row.role,
        "baseline": row.baseline.split(" (")[0] if row.baseline else None,  # without the values of holes it leaves
        "state": row.state,
        "config": _config(row, axes),
        "reason": row.reason,
        "epochs": row.epochs,
    }
    for name, axis in axes.items():
        value = row.params.get(name)
        if name not in row.params:
            common[axis.column] = None
        else:
            common[axis.column] = label_text(value) if axis.kind == "levels" else _number(value)
    done = {int(s): v for s, v in row.values.items() if int(s) in set(row.seeds) and v is not None and math.isfinite(v)}
    found = []
    for seed, value in done.items():
        metrics = {f"m.{name}": number for name, v in row.metrics.get(str(seed), {}).items() if (number := _number(v)) is not None}
        seconds = metrics.get("m.train_seconds", row.seconds / len(done) if row.seconds is not None else math.nan)
        key = row.keys.get(str(seed)) or (row.key if len(done) == 1 else None)
        found.append(common | metrics | {"seed": float(seed), "finished": True, "value": value, "key": key, "seconds": seconds})
    if not found or row.state in ("PRUNED", "FAIL"):
        # The run that was cut: it has no final value, but it must be seen in counts and cells.
        found.append(common | {"seed": math.nan, "finished": False, "value": math.nan, "key": row.key, "seconds": math.nan})
    return found


def _table(records: list[dict[str, Any]], axes: Mapping[str, Axis]) -> pd.DataFrame:
    base = ["number", "role", "baseline", "state", "config", "seed", "finished", "value", "key", "seconds", "epochs", "reason"]
    table = pd.DataFrame(records)
    for column in [*base, *(axis.column for axis in axes.values())]:
        if column not in table:
            table[column] = pd.Series(dtype=bool if column == "finished" else float if column in ("seed", "value", "seconds") else object)
    for axis in axes.values():
        table[axis.column] = table[axis.column].astype("float64" if axis.kind == "range" else "object")
    table["finished"] = table["finished"].astype(bool)
    done = table["finished"]
    repeated = table[done].duplicated(["role", "config", "seed", "key"])
    again = repeated.index[repeated]
    table.loc[again, "finished"] = False  # the trial stays in the counts; its value is already there
    table.loc[again, "value"] = math.nan
    return table


def _curves(rows: Sequence[TrialRow], axes: Mapping[str, Axis]) -> pd.DataFrame:
    records = [
        (row.number, _config(row, axes), row.state, int(epoch), float(value))
        for row in rows
        if row.role == "search"
        for epoch, value in row.intermediate
        if value is not None and math.isfinite(value)
    ]
    return pd.DataFrame(records, columns=["number", "config", "state", "epoch", "value"])
