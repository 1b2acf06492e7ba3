"""What a run would do, counted before anything starts: strata, trials, distinct recipes and epochs by role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from kdsearch.spec.base import FieldProblem
from kdsearch.spec.key import recipe_key
from kdsearch.spec.recipe import Data, Recipe
from kdsearch.spec.space import Structure
from kdsearch.spec.study_model import Stratum, Study

ROLES = ("teacher", "assistant", "pre-training", "baseline", "trial")
"""In the order in which a recipe with several roles is counted: once, as the first."""
MOST_LISTED = 2000
"""Recipes that are worked out one by one; beyond that, an upper bound is given."""


@dataclass(frozen=True)
class StratumPlan:
    """One stratum of the plan."""

    name: str
    trials: int
    """Cells times seeds of a grid, else configurations."""
    baselines: int
    """Baseline configurations times seeds."""
    parameters: list[str]
    cells: int | None = None
    """Cells of a grid."""


@dataclass
class RolePlan:
    """Distinct recipes of one role."""

    role: str
    recipes: int = 0
    epochs: int = 0
    upper_bound: bool = False
    """Whether fewer may be trained: pruning, or choices made while the search runs."""


@dataclass(frozen=True)
class Plan:
    """The whole plan."""

    study: str
    sampler: str
    seeds: list[int]
    strata: list[StratumPlan] = field(default_factory=list)
    roles: list[RolePlan] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs at most, all roles together."""
        return sum(role.epochs for role in self.roles)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "epochs": self.epochs}

    def text(self) -> str:
        """For a terminal."""
        lines = [f"study {self.study}: sampler {self.sampler}, seeds {', '.join(map(str, self.seeds))}", ""]
        unit = "trials (cells × seeds)" if self.sampler == "grid" else "configurations"
        rows = [["stratum", unit, "baseline trials", "parameters"]]
        rows += [[one.name or "-", str(one.trials), str(one.baselines), ", ".join(one.parameters) or "-"] for one in self.strata]
        lines += _columns(rows)
        rows = [["role", "distinct recipes", "epochs"]]
        rows += [[role.role, *(f"{'≤ ' if role.upper_bound else ''}{n:,}" for n in (role.recipes, role.epochs))] for role in self.roles]
        lines += ["", *_columns(rows), "", f"at most {self.epochs:,} epochs in all; what the store holds already is not trained again"]
        return "\n".join(lines)


def plan(study: Study) -> Plan:
    """Count what a run of ``study`` trains. Recipes that roles and strata share are counted once."""
    tally = _Tally()
    strata: list[StratumPlan] = []
    for stratum in study.strata_list():
        baselines = study.baselines_list(stratum)
        cells = study.grid(stratum) if study.is_grid else None
        strata.append(
            StratumPlan(
                stratum.name,
                study.planned_trials(stratum),
                len(baselines) * len(study.seeds),
                study.structure(stratum).order,
                len(cells) if cells is not None else None,
            )
        )
        _count_search(study, stratum, cells, tally)
        for baseline in baselines:
            for seed in study.seeds:
                tally.add(study.recipe_for_baseline(baseline, stratum, seed), "baseline")
    return Plan(study.name, study.sampler.name, list(study.seeds), strata, tally.roles())


def _count_search(study: Study, stratum: Stratum, cells: list[dict[str, Any]] | None, tally: _Tally) -> None:
    structure = study.structure(stratum)
    trials = study.planned_trials(stratum)
    if cells is not None and trials <= MOST_LISTED:
        for cell in cells:
            for seed in study.seeds:
                tally.add(study.recipe_for(cell, stratum, seed), "trial")
        return
    runs = trials if cells is not None else trials * len(study.seeds)
    corners = [study.recipe_for(params, stratum, study.seeds[0]) for params in _corners(structure)]
    tally.bound("trial", runs, runs * max(recipe.optim.epochs for recipe in corners))
    shaping = {name for name in structure.order if _shapes(study, stratum, name)}
    try:
        choices = structure.grid(shaping)
    except FieldProblem:
        choices = None
    if choices is not None and len(choices) * len(study.seeds) <= min(MOST_LISTED, 50 * runs):
        for params in choices:
            for seed in study.seeds:
                tally.add_children(study.recipe_for(params, stratum, seed), upper_bound=len(choices) > trials)
        return
    for recipe in corners[:1]:  # nearly every trial has children of its own
        for role, child in _children(recipe):
            tally.bound(role, runs, runs * _epochs(child))


def _corners(structure: Structure) -> Iterator[dict[str, Any]]:
    yield structure.assignment()
    for name in structure.order:
        for value in structure.space[name].corners():
            yield structure.assignment({name: value})


def _shapes(study: Study, stratum: Stratum, name: str) -> bool:
    """Whether the recipes that trials need trained beforehand change with a parameter, or whether it decides on one that does."""
    structure = study.structure(stratum)
    seen = set()
    for value in study.space[name].corners():
        recipe = study.recipe_for(structure.assignment({name: value}), stratum, study.seeds[0])
        seen.add(tuple(_key(child) for _, child in _children(recipe)))
    dependent = (child for child in structure.order if any(parent == name for parent, _ in structure.parents(child)))
    return len(seen) > 1 or any(_shapes(study, stratum, child) for child in dependent)


def _stand_in(data: Data) -> str:
    """In place of the content of data that nobody has read yet: equal descriptions count as equal data."""
    return data.model_dump_json()


def _key(recipe: Recipe) -> str:
    return recipe_key(recipe, _stand_in)


def _epochs(recipe: Recipe) -> int:
    return 0 if recipe.pretrained is not None else recipe.optim.epochs


def _children(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Role and recipe of everything trained before ``recipe``, the deepest first."""
    for path, child in recipe.children().items():
        yield from _children(child)
        if path.startswith("teachers"):
            yield ("assistant" if child.distill is not None else "teacher"), child
        else:
            yield "pre-training", child


class _Tally:
    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}  # key → role, epochs
        self._bounds: dict[str, RolePlan] = {}
        self._upper: set[str] = set()

    def add(self, recipe: Recipe, role: str) -> None:
        self.add_children(recipe)
        self._put(recipe, role)

    def add_children(self, recipe: Recipe, *, upper_bound: bool = False) -> None:
        for role, child in _children(recipe):
            self._put(child, role)
            if upper_bound:
                self._upper.add(role)

    def bound(self, role: str, recipes: int, epochs: int) -> None:
        known = self._bounds.setdefault(role, RolePlan(role, upper_bound=True))
        known.recipes += recipes
        known.epochs += epochs

    def _put(self, recipe: Recipe, role: str) -> None:
        key = _key(recipe)
        known = self._found.get(key)
        if known is None or ROLES.index(role) < ROLES.index(known[0]):
            self._found[key] = (role, _epochs(recipe))

    def roles(self) -> list[RolePlan]:
        """Roles that occur, in order."""
        found: list[RolePlan] = []
        for role in ROLES:
            mine = [epochs for one, epochs in self._found.values() if one == role]
            known = self._bounds.get(role, RolePlan(role, upper_bound=role in self._upper))
            one = RolePlan(role, len(mine) + known.recipes, sum(mine) + known.epochs, known.upper_bound)
            if one.recipes:
                found.append(one)
        return found


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
