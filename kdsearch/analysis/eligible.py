"""What may be chosen: configurations that keep the study's constraints; of two objectives, those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdsearch.analysis.select import Selected, best, pareto
from kdsearch.errors import NothingEligible

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

ALL = 1_000_000


def nothing_eligible(rows: Sequence[TrialRow], study: Study, where: object) -> NothingEligible:
    """The error of a study, recorded in ``where``, that has nothing to choose: unfinished, or nothing keeps its constraints."""
    done = sum(row.role == "search" and row.state == "COMPLETE" for row in rows)
    if done and study.constraints:
        limits = " and ".join(map(str, study.constraints))
        return NothingEligible(f"{where}: none of {done} finished trials keeps {limits}; give a larger bound, or add trials to the budget")
    return NothingEligible(
        f"{where}: no finished trial; run the study first: kdsearch run {study.name}, or see: kdsearch status {study.name}"
    )


def keeps_constraints(row: TrialRow, study: Study) -> bool:
    """Whether every finished seed keeps every constraint. A metric that was not measured keeps none."""
    if not study.constraints:
        return True
    measured = list(row.metrics.values())
    return bool(measured) and all(
        constraint.metric in metrics and constraint.excess(float(metrics[constraint.metric])) <= 0
        for constraint in study.constraints
        for metrics in measured
    )


def eligible_rows(rows: Sequence[TrialRow], study: Study) -> list[TrialRow]:
    """Every row but those of the search that break a constraint."""
    return [row for row in rows if row.role != "search" or keeps_constraints(row, study)]


def search_choices(rows: Sequence[TrialRow], study: Study, stratum: str, top: int) -> list[Selected]:
    """The ``top`` best of the search that keep the constraints, best first; with two objectives the whole Pareto front."""
    found = best(eligible_rows(rows, study), study, stratum, ALL, confirmed=False)
    if len(study.objectives()) < 2 or not found:
        return found[:top]
    first, second = study.objectives()[:2]
    cost = np.array([choice.metrics.get(second.metric, np.nan) for choice in found])
    front = pareto(cost if second.direction == "minimize" else -cost, np.array([c.mean for c in found]), first.direction == "maximize")
    return [choice for choice, keeps in zip(found, front, strict=True) if keeps]


def ranked(rows: Sequence[TrialRow], study: Study, stratum: str, top: int) -> list[Selected]:
    """The ``top`` best that keep the constraints, by the confirmation where there is one; with two objectives the Pareto front."""
    if len(study.objectives()) > 1:
        return search_choices(rows, study, stratum, top)
    return best(eligible_rows(rows, study), study, stratum, top)
