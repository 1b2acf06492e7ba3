"""What must hold before anything starts: every hole defined, every parameter used, the recipe valid at each choice and both ends."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from kdsearch.spec.base import FieldProblem
from kdsearch.spec.explain import explained, meant, plain
from kdsearch.spec.inherit import resolve_recipe, written_path
from kdsearch.spec.options import for_epochs
from kdsearch.spec.recipe import USER_CODE, Recipe
from kdsearch.spec.space import Structure, filled, holes, place
from kdsearch.spec.study_model import MOST_BASELINES, Stratum, Study
from kdsearch.spec.yaml_reader import Document, Keys

DEFAULT_TRIALS = 100
MOST_STRATA = 100
MOST_SEARCHED = 1000


def check_recipe(document: Document, *, allow_code: bool) -> Recipe:
    """Resolve and check a recipe without holes. Raises SpecError."""
    raw = filled(document.data, {}, {})
    return _resolved(raw, lambda path: path, document, allow_code=allow_code, context=None)


def check_study(study: Study, document: Document, *, allow_code: bool) -> Study:
    """Check a study that is well formed, and work out the defaults that follow from its recipe.

    Raises:
        SpecError: about the first problem found.
    """
    try:
        _check_holes(study, document)
        _check_strata(study, document)
        epochs = 1
        for stratum in study.strata_list():
            recipes = list(_corners(study, stratum, None, document, allow_code=allow_code))
            epochs = max(epochs, *(recipe.optim.epochs for recipe in recipes))
            _check_bits(study, stratum, recipes, document)
            _check_metric(study, recipes, document)
            for name in study.overlays:
                _check_baseline(study, stratum, name, document, allow_code=allow_code)
            if study.is_grid:
                study.structure(stratum).grid()
    except FieldProblem as problem:
        raise document.error(str(problem), problem.path) from None
    budget = study.budget
    if budget.trials is None and not study.is_grid:
        searched = any(study.parameters(stratum) for stratum in study.strata_list())
        budget = budget.model_copy(update={"trials": DEFAULT_TRIALS if searched else 1})
    return study.model_copy(update={"pruner": for_epochs(study.pruner, epochs), "budget": budget})


def _check_holes(study: Study, document: Document) -> None:
    trees: list[tuple[Any, Keys]] = [(study.recipe, ("recipe",))]
    trees += [(overlay, ("baselines", name)) for name, overlay in study.overlays.items()]
    trees += [(spec.choices, ("space", name, "choices")) for name, spec in study.space.items() if isinstance(spec.choices, dict)]
    for tree, root in trees:
        try:
            for name, path in holes(tree):
                if name not in study.space:
                    close = difflib.get_close_matches(name, list(study.space), 1, 0.6)
                    said = f"; did you mean ${close[0]}?" if close else ""
                    defined = ", ".join(study.space) or "nothing"
                    raise document.error(f"hole ${name} is not defined in the space{said}; defined: {defined}", (*root, *path))
        except FieldProblem as problem:
            raise document.error(str(problem), (*root, *problem.path)) from None
    used = set(Structure(study.recipe, study.space, {}).names)
    for name in study.overlays:
        used |= Structure(study.raw_recipe(name), study.space, {}).names
    for name in study.space:
        if name not in used:
            raise document.error(
                f"parameter {name!r} is used nowhere",
                ("space", name),
                f"put ${name} into the recipe, or leave the parameter out (--set space.{name}=null)",
            )


def _check_strata(study: Study, document: Document) -> None:
    whole = Structure(study.recipe, study.space, {})
    count = 1
    for index, name in enumerate(study.strata):
        at: Keys = ("strata", index)
        if name not in study.space:
            raise document.error(f"{name!r} is no parameter of the space{meant(name, study.space)}", at)
        if name in study.strata[:index]:
            raise document.error(f"{name!r} stands twice", at)
        if study.space[name].kind != "categorical":
            raise document.error(f"{name!r} is a range; a stratum needs choices", at)
        if name not in whole.names or whole.parents(name):
            raise document.error(f"{name!r} exists only under some choices of another parameter, so it cannot be a stratum", at)
        count *= len(study.space[name].labels)
    if count > MOST_STRATA:
        raise document.error(f"make {count} strata; at most {MOST_STRATA}", ("strata",))


def _corners(study: Study, stratum: Stratum, baseline: str | None, document: Document, *, allow_code: bool) -> Iterator[Recipe]:
    """The recipe at every label and both ends of each parameter, the others at their first."""
    structure = study.structure(stratum, baseline)
    yield _at(study, stratum, baseline, structure.assignment(), {}, document, allow_code)
    for name in structure.order:
        for value in study.space[name].corners():
            yield _at(study, stratum, baseline, structure.assignment({name: value}), {name: value}, document, allow_code)


def _at(
    study: Study,
    stratum: Stratum,
    baseline: str | None,
    params: Mapping[str, Any],
    probed: Mapping[str, Any],
    document: Document,
    allow_code: bool,
) -> Recipe:
    tree = study.raw_recipe(baseline)
    values = {**stratum.values, **params}
    raw = {**filled(tree, values, study.space), "seed": study.seeds[0]}

    def written(path: Keys) -> Keys:
        found = place(tree, path, values, study.space, ("recipe",))
        if baseline is not None and found[0] == "recipe" and _overlaid(study.overlays[baseline], found[1:]):
            return ("baselines", baseline, *found[1:])
        return found

    first = stratum.name == study.strata_list()[0].name
    told = ", ".join(f"{name}={plain(value)}" for name, value in {**({} if first else stratum.values), **probed}.items())
    if baseline is not None:
        told = f"baseline {baseline}" + (f", {told}" if told else "")
    return _resolved(raw, written, document, allow_code=allow_code, context=f"with {told}" if told else None)


def _overlaid(overlay: Any, path: Keys) -> bool:
    for step in path:
        if not isinstance(overlay, Mapping):
            return True
        if step not in overlay:
            return False
        overlay = overlay[step]
    return True


def _resolved(
    raw: dict[str, Any], place_of: Callable[[Keys], Keys], document: Document, *, allow_code: bool, context: str | None
) -> Recipe:
    def written(path: Keys) -> Keys:
        return place_of(written_path(raw, path))

    try:
        recipe = resolve_recipe(raw)
    except ValidationError as error:
        raise explained(error, Recipe, document, written, context) from None
    except FieldProblem as problem:  # of `count`: its path is that of the short recipe
        raise document.error(str(problem), place_of(problem.path), context) from None
    if not allow_code:
        for path, name in _named_code(recipe):
            raise document.error(f"{name!r} would run code of yours", written(path), "allow it with --allow-code")
    return recipe


def _named_code(recipe: Recipe, at: Keys = ()) -> Iterator[tuple[Keys, str]]:
    names: list[tuple[Keys, str]] = [(("data", "name"), recipe.data.name), (("model", "architecture"), recipe.model.architecture)]
    if recipe.distill is not None and recipe.distill.cotrain is not None:
        names.append((("distill", "cotrain", "model", "architecture"), recipe.distill.cotrain.model.architecture))
    for path, name in names:
        if USER_CODE.fullmatch(name):
            yield (*at, *path), name
    for role, child in recipe.children().items():
        steps: Keys = tuple(int(step) if step.isdecimal() else step for step in role.split("."))
        yield from _named_code(child, (*at, *(steps if role == "init" else ("distill", *steps))))


def _check_bits(study: Study, stratum: Stratum, recipes: list[Recipe], document: Document) -> None:
    if study.constraints or len(study.objective_list) > 1 or study.is_grid:
        return
    seen = {_bits(recipe) for recipe in recipes}
    if len(seen) == 1:
        return
    structure = study.structure(stratum)
    for name in structure.order:
        pair = [
            filled(study.recipe, {**stratum.values, **structure.assignment({name: v})}, study.space) for v in study.space[name].corners()
        ]
        if len({_bits(resolve_recipe(raw)) for raw in pair}) > 1:
            raise document.error(
                f"{name!r} changes the bits of weights or activations, so the search would spend nearly all on the most bits",
                ("space", name),
                f'add strata: [{name}], a size constraint such as constraints: ["model_kib <= 64"], or a second objective without pruner',
            )


def _bits(recipe: Recipe) -> tuple[int | None, int | None]:
    precision = recipe.precision
    weights = precision.weights.bits if precision is not None and precision.weights is not None else None
    activations = precision.activations.bits if precision is not None and precision.activations is not None else None
    return weights, activations


def _check_metric(study: Study, recipes: list[Recipe], document: Document) -> None:
    for index, objective in enumerate(study.objective_list):
        at: Keys = ("objective", "metric") if isinstance(document.data.get("objective"), dict) else ("objective", index, "metric")
        for recipe in recipes:
            on = recipe.data.evaluate_on
            if objective.metric.startswith("test_") and on != "test":
                raise document.error(f"{objective.metric} needs recipe.data.evaluate_on: test, not {on}", at)
            if objective.metric.startswith("val_") and on == "test":
                other = objective.metric.replace("val_", "test_")
                raise document.error(f"recipe.data.evaluate_on is test, so there is no {objective.metric}; write {other}", at)


def _check_baseline(study: Study, stratum: Stratum, name: str, document: Document, *, allow_code: bool) -> None:
    count = study.overlays[name].get("search")
    at: Keys = ("baselines", name)
    if count is not None and (type(count) is not int or not 1 <= count <= MOST_SEARCHED):
        raise document.error(f"must be a whole number from 1 to {MOST_SEARCHED}, not {count!r}", (*at, "search"))
    _ = list(_corners(study, stratum, name, document, allow_code=allow_code))
    if count is None:
        structure = study.structure(stratum, name)
        open_names = ", ".join(f"${one}" for one in structure.order)
        hint = f"add `search: N` to the baseline for N configurations of {open_names}, or fill them in"
        try:
            cells = structure.grid()
        except FieldProblem:
            raise document.error(f"leaves {open_names} open, too much to list", at, hint) from None
        if len(cells) > MOST_BASELINES:
            raise document.error(f"leaves {len(cells)} combinations of {open_names}; at most {MOST_BASELINES} are listed", at, hint)
