"""The table of trials as the page's script reads it: columns, rows, and each row's details."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdsearch.analysis.frame import label_text

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study


def trials_data(studies: Sequence[tuple[Study, Sequence[TrialRow]]]) -> dict[str, Any]:
    """``columns`` (name, title, numeric, digits), ``rows`` (cells in their order), ``recipes`` (one line each) and ``details``."""
    several = len(studies) > 1
    strata = any(row.stratum for _, rows in studies for row in rows)
    names = list(dict.fromkeys(name for _, rows in studies for row in rows for name in row.params))
    numeric = {name: all(_is_number(row.params[name]) for _, rows in studies for row in rows if name in row.params) for name in names}
    columns = [_column("number", "#", numeric=True, digits=0)]
    columns += [_column("study", "study")] * several + [_column("stratum", "stratum")] * strata
    columns += [_column("role", "role"), _column("state", "state"), _column("value", "value", numeric=True, digits=3)]
    columns += [_column("seeds", "seeds", numeric=True, digits=0)]
    columns += [_column(name, name.replace("_", " "), numeric=numeric[name]) for name in names]
    columns += [_column("epochs", "epochs", numeric=True, digits=0), _column("seconds", "seconds", numeric=True, digits=1)]
    table, recipes, details = [], [], []
    for study, rows in studies:
        for row in rows:
            cells: list[Any] = [row.number, *([study.name] * several), *([row.stratum] * strata)]
            role = f"{row.role}: {row.baseline}" if row.baseline else row.role
            value = row.value if row.state == "COMPLETE" and row.value is not None and math.isfinite(row.value) else None
            cells += [role, row.state, value, len(row.seeds)]
            cells += [_cell(row.params[name], numeric[name]) if name in row.params else None for name in names]
            cells += [row.epochs, round(row.seconds, 3) if row.seconds is not None else None]
            table.append(cells)
            recipes.append(", ".join(f"{name} {label_text(v)}" for name, v in row.params.items()) or role)
            details.append(_details(row))
    return {"columns": columns, "rows": table, "recipes": recipes, "details": details}


def _column(name: str, title: str, *, numeric: bool = False, digits: int | None = None) -> dict[str, Any]:
    return {"name": name, "title": title, "numeric": numeric, "digits": digits}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any, numeric: bool) -> Any:
    return float(f"{value:.6g}") if numeric else label_text(value)


def _details(row: TrialRow) -> list[list[str]]:
    found = [["recipe", ", ".join(f"{name} = {label_text(value)}" for name, value in row.params.items()) or "(as the study's)"]]
    found += [
        [f"seed {seed}", f"{value:.4f}" + (f", key {row.keys[seed][:16]}" if seed in row.keys else "")]
        for seed, value in row.values.items()
    ]
    if row.state == "PRUNED" and row.intermediate:
        found.append(["pruned", f"after epoch {int(row.intermediate[-1][0])}; its last value is not a final one"])
    if row.reason:
        found.append(["reason", str(row.reason)])
    found += [["warning", str(text)] for text in row.warnings]
    return found
