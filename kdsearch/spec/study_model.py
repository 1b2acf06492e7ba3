"""A study: a recipe with holes, the space that fills them, and how it is searched.

``load_study`` of :mod:`kdsearch.spec.study` reads and checks one; what stands here answers what a run asks of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdsearch.errors import SpecError
from kdsearch.spec.base import FieldProblem, Frozen, Whole
from kdsearch.spec.explain import shown
from kdsearch.spec.inherit import merged, resolve_recipe
from kdsearch.spec.options import EPOCH_METRICS, Budget, Constraint, Objective, Pruner, Resources, Sampler, parse_constraint
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.space import NAME, Parameter, ParameterSpec, Structure, filled
from kdsearch.spec.yaml_reader import Keys, dotted, dump_yaml

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_BASELINES = 8
"""Combinations of leftover holes that a baseline enumerates without being told to search."""


def _check_name(value: str) -> str:
    if not SAFE_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} names a folder, so it takes letters, digits, '.', '_' and '-', at most 100, the first a letter or digit"
        )
    return value


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _one_or_two(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Stratum:
    """One value of what is answered separately: a study of its own."""

    name: str
    """``bits=2``, or empty when the study has no strata."""
    slug: str
    """The same for file names: ``bits-2``, or ``best``."""
    values: dict[str, Any]
    """Parameter → label."""


@dataclass(frozen=True)
class Baseline:
    """One configuration to compare with: an overlay on the recipe, and values for the holes it leaves."""

    name: str
    params: dict[str, Any]

    @property
    def label(self) -> str:
        """Name, with the values of leftover holes."""
        values = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.name} ({values})" if values else self.name


class Study(Frozen):
    """What a study file says, checked; and what a run asks of it."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(description="Name of the study and of its run's folder.")
    title: str | None = Field(None, description="Heading of the report. Default: the name.")
    description: str | None = Field(None, description="What the study asks, for its report.")
    recipe: dict[str, Any] = Field(description="The recipe, with $holes where the space's parameters go.")
    space: dict[str, ParameterSpec] = Field(default_factory=dict, description="Parameter → its choices or range.")
    strata: tuple[str, ...] = Field(
        (), description="Categorical parameters whose every value is searched on its own, with its own budget and baselines."
    )
    overlays: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        alias="baselines",
        description="Name → overlay on the recipe (null replaces); `search: N` tries N configurations of what it leaves open.",
    )
    objective_list: Annotated[tuple[Objective, ...], BeforeValidator(_one_or_two)] = Field(
        (Objective(),),
        alias="objective",
        description="What is searched for; a list of two runs without pruning.",
        min_length=1,
        max_length=2,
    )
    constraints: tuple[Annotated[Constraint, BeforeValidator(parse_constraint)], ...] = Field(
        (), description='Bounds on what is eligible, such as "model_kib <= 64".'
    )
    sampler: Annotated[Sampler, BeforeValidator(_named)] = Field(
        default_factory=lambda: Sampler.model_validate({"name": "tpe"}), description="A name, or a name with options."
    )
    pruner: Annotated[Pruner, BeforeValidator(_named)] = Field(
        default_factory=lambda: Pruner.model_validate({"name": "none"}), description="A name, or a name with options."
    )
    budget: Budget = Field(default_factory=Budget, description="How much is tried.")
    seeds: tuple[Annotated[Whole, Field(ge=0, lt=2**31)], ...] = Field(
        (0,), description="Seeds of each configuration; an adaptive search looks at the first while it runs.", min_length=1
    )
    resources: Resources = Field(default_factory=Resources, description="What one trial takes.")
    search_seed: Whole = Field(0, description="Seed of the sampler.", ge=0, lt=2**31)
    retries: Whole = Field(2, description="Times a trial whose worker died is started again.", ge=0, le=100)

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        for name in self.space:
            if not NAME.fullmatch(name):
                raise FieldProblem(f"{name!r} is no name for a parameter: letters, digits and _, the first no digit", "space", name)
        for name in self.overlays:
            if not SAFE_NAME.fullmatch(name):
                raise FieldProblem(f"{name!r} is no name for a baseline: letters, digits, '.', '_' and '-'", "baselines", name)
        if len(set(self.seeds)) < len(self.seeds):
            raise FieldProblem("a seed stands twice", "seeds")
        if "seed" in self.recipe:
            raise FieldProblem("a study's seeds are given by `seeds`; leave the recipe's seed out", "recipe", "seed")
        self._check_objectives()
        return self

    def _check_objectives(self) -> None:
        first, *more = self.objective_list
        if first.metric not in EPOCH_METRICS:
            raise FieldProblem(f"the first objective is one that each epoch has: {', '.join(EPOCH_METRICS)}", "objective", 0, "metric")
        if more and more[0].metric == first.metric:
            raise FieldProblem(f"both objectives are {first.metric}", "objective", 1, "metric")
        if more and self.pruner.name != "none":
            raise FieldProblem(f"two objectives cannot be pruned, so it must be none, not {self.pruner.name}", "pruner", "name")
        if self.pruner.name == "wilcoxon" and len(self.seeds) < 2:
            raise FieldProblem(f"wilcoxon compares seeds, so it needs at least 2, not {len(self.seeds)}", "seeds")
        if self.sampler.name == "grid" and self.pruner.name != "none":
            raise FieldProblem(
                f"a grid runs every cell on every seed, so the pruner must be none, not {self.pruner.name}", "pruner", "name"
            )

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.objective_list[0]

    def objectives(self) -> tuple[Objective, ...]:
        """One objective, or two."""
        return self.objective_list

    @property
    def is_grid(self) -> bool:
        """Whether a trial is a cell on a seed."""
        return self.sampler.name == "grid"

    @cached_property
    def _strata(self) -> list[Stratum]:
        combinations: list[dict[str, Any]] = [{}]
        for name in self.strata:
            combinations = [{**one, name: label} for one in combinations for label in self.space[name].labels]
        found: list[Stratum] = []
        for values in combinations:
            slug = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(f"{name}-{label}" for name, label in values.items())) or "best"
            while slug in {other.slug for other in found}:
                slug += "_"
            found.append(Stratum(", ".join(f"{name}={label}" for name, label in values.items()), slug, values))
        return found

    def strata_list(self) -> list[Stratum]:
        """Every stratum; a single nameless one when the study has none."""
        return list(self._strata)

    def stratum(self, name: str) -> Stratum:
        """The stratum of that name. Raises SpecError with the known ones."""
        for one in self._strata:
            if name in (one.name, one.slug):
                return one
        raise SpecError(f"{self.name} has no stratum {name!r}; it has: {', '.join(one.name or '(none)' for one in self._strata)}")

    @cached_property
    def _structures(self) -> dict[tuple[str, str | None], Structure]:
        return {}

    def structure(self, stratum: Stratum, baseline: str | None = None) -> Structure:
        """The open parameters of a stratum; with ``baseline``, those its overlay leaves open."""
        key = (stratum.name, baseline)
        if key not in self._structures:
            self._structures[key] = Structure(self.raw_recipe(baseline), self.space, stratum.values)
        return self._structures[key]

    def raw_recipe(self, baseline: str | None = None) -> dict[str, Any]:
        """The recipe with holes; with a baseline's overlay when one is named."""
        if baseline is None:
            return self.recipe
        overlay = {key: value for key, value in self.overlays[baseline].items() if key != "search"}
        result: dict[str, Any] = merged(self.recipe, overlay)
        return result

    def parameters(self, stratum: Stratum) -> list[Parameter]:
        """What is searched in a stratum; parameters that others depend on come first."""
        return self.structure(stratum).parameters()

    def check_params(self, params: Mapping[str, Any], stratum: Stratum, baseline: str | None = None) -> dict[str, Any]:
        """``params`` as written in the space, without those that do not exist under them.

        Raises:
            SpecError: one is unknown, missing or not allowed.
        """
        own = {name: value for name, value in params.items() if name not in stratum.values}  # the stratum has the say there
        try:
            return self.structure(stratum, baseline).check(own)
        except FieldProblem as problem:
            raise SpecError(str(problem), file=self.name) from None

    def recipe_for(self, params: Mapping[str, Any], stratum: Stratum, seed: int) -> Recipe:
        """The complete recipe of a configuration on a seed.

        Args:
            params: parameter → its label or number.
            stratum: fixes its own parameters.
            seed: of the whole run, its teachers included.

        Raises:
            SpecError: a parameter is unknown, missing or not allowed.
        """
        return self._resolved(params, stratum, seed, None)

    def recipe_for_baseline(self, baseline: Baseline, stratum: Stratum, seed: int) -> Recipe:
        """The complete recipe of a baseline on a seed."""
        return self._resolved(baseline.params, stratum, seed, baseline.name)

    def _resolved(self, params: Mapping[str, Any], stratum: Stratum, seed: int, baseline: str | None) -> Recipe:
        values = {**stratum.values, **self.check_params(params, stratum, baseline)}
        return resolve_recipe({**filled(self.raw_recipe(baseline), values, self.space), "seed": seed})

    def grid(self, stratum: Stratum) -> list[dict[str, Any]]:
        """Every cell of the space; for a grid with a budget, that many of them, a larger budget keeping those of a smaller one.

        Raises:
            SpecError: a parameter is continuous, or there are more than 100,000 cells.
        """
        try:
            cells = self.structure(stratum).grid()
        except FieldProblem as problem:
            raise SpecError(str(problem), file=self.name, key=".".join(map(str, problem.path))) from None
        if not self.is_grid or self.budget.trials is None or self.budget.trials >= len(cells):
            return cells
        order = list(range(len(cells)))
        random.Random(f"{self.search_seed} {stratum.name}").shuffle(order)
        return [cells[index] for index in sorted(order[: self.budget.trials])]

    def planned_trials(self, stratum: Stratum) -> int:
        """Trials of the search in a stratum, baselines apart: cells times seeds of a grid, else configurations."""
        return len(self.grid(stratum)) * len(self.seeds) if self.is_grid else self.budget.trials or 0

    def baselines_of(self, stratum: Stratum, name: str) -> list[Baseline]:
        """The configurations of one baseline: one, or as many as its leftover holes or its `search: N` make."""
        structure = self.structure(stratum, name)
        count = self.overlays[name].get("search")
        if count is None:
            return [Baseline(name, cell) for cell in structure.grid()]
        draw = random.Random(f"{self.search_seed} {stratum.name} {name}")
        found: list[Baseline] = []
        for _ in range(50 * count):  # small spaces run out of new configurations
            one = Baseline(name, structure.sample(draw))
            if one not in found:
                found.append(one)
            if len(found) == count:
                break
        return found

    def baselines_list(self, stratum: Stratum) -> list[Baseline]:
        """Every baseline configuration of a stratum."""
        return [one for name in self.overlays for one in self.baselines_of(stratum, name)]

    def to_data(self) -> dict[str, Any]:
        """Plain data of the study, with what is at its default left out where that loses nothing."""
        data: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=False)
        data["space"] = {name: spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) for name, spec in self.space.items()}
        data["objective"] = [one.model_dump(mode="json") for one in self.objective_list]
        data["constraints"] = [str(one) for one in self.constraints]
        for key in ("sampler", "pruner", "budget", "resources"):
            data[key] = {name: value for name, value in data[key].items() if value is not None}
        return {key: value for key, value in data.items() if value not in (None, [], {}) or key in ("recipe",)}

    def to_yaml(self) -> str:
        """The resolved study: space files inlined, defaults written out. Loads to an equal study."""
        return dump_yaml(self.to_data())

    def difference(self, other: Study) -> list[str]:
        """What this study changes that a run of ``other`` cannot take up, as lines ``path: old -> new``.

        Budget, resources, retries, title and description may change, and seeds may be appended.
        """
        before, after = dict(_flat(other.to_data())), dict(_flat(self.to_data()))
        lines = []
        for path in [*before, *(path for path in after if path not in before)]:
            appended = path[0] == "seeds" and len(path) > 1 and path not in before
            old, now = before.get(path, "(absent)"), after.get(path, "(absent)")
            if path[0] not in CHANGEABLE and not appended and (old != now or isinstance(old, bool) != isinstance(now, bool)):
                lines.append(f"{dotted(path)}: {shown(old)} -> {shown(now)}".replace("'(absent)'", "(absent)"))
        return lines

    def warnings(self) -> list[str]:
        """What is allowed but should be known before a run."""
        found: list[str] = []
        stratum = self._strata[0]
        recipe = self.recipe_for(self.structure(stratum).assignment(), stratum, self.seeds[0])
        if recipe.data.evaluate_on == "test":
            found.append("the objective is measured on test data: the best value found is biased upwards; for repeating a paper only")
        if len(self.objectives()) > 1:
            found.append("two objectives: nothing is pruned, every trial runs to its end")
        if self.sampler.name == "gp" and self.pruner.name != "none":
            found.append("sampler gp does not learn from pruned trials; tpe does")
        if self.pruner.name == "hyperband" and recipe.optim.epochs < 27:
            found.append(f"hyperband with {recipe.optim.epochs} epochs has few rungs; median or percentile suit short runs better")
        return found


CHANGEABLE = ("budget", "resources", "retries", "title", "description")
"""What may change when a run is extended, besides appended seeds."""


def _flat(tree: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, (*path, key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from _flat(value, (*path, index))
    else:
        yield path, tree
