"""What children take from the recipe around them."""

from __future__ import annotations

import copy

import pytest

from kdsearch.spec.base import FieldProblem
from kdsearch.spec.inherit import fill, merged, resolve_recipe, written_path

NESTED = {
    "data": {"validation": 0.2},
    "model": {"architecture": "resnet8"},
    "init": {"model": {"architecture": "resnet8"}, "optim": {"epochs": 2}},
    "distill": {"teachers": [{"seed": 7}, {"count": 3, "optim": {"epochs": 3}, "distill": {"teachers": [{"model": {"width": 2}}]}}]},
    "optim": {"epochs": 10, "learning_rate": 0.2},
    "seed": 5,
}


def test_children_take_data_optim_and_seed_field_by_field() -> None:
    recipe = resolve_recipe(NESTED)
    assert recipe.init is not None and recipe.distill is not None
    assert recipe.init.data == recipe.data
    assert (recipe.init.optim.epochs, recipe.init.optim.learning_rate, recipe.init.seed) == (2, 0.2, 5)
    assert recipe.distill.teachers[0].seed == 7
    assert recipe.distill.teachers[0].optim == recipe.optim


def test_grandchildren_inherit_from_their_parent_not_from_the_outermost() -> None:
    recipe = resolve_recipe(NESTED)
    assert recipe.distill is not None
    assistant = recipe.distill.teachers[2]
    assert assistant.distill is not None
    assert assistant.distill.teachers[0].optim.epochs == 3
    assert assistant.distill.teachers[0].seed == assistant.seed == 1005


def test_count_derives_seeds_a_thousand_apart() -> None:
    recipe = resolve_recipe(NESTED)
    assert recipe.distill is not None
    assert [teacher.seed for teacher in recipe.distill.teachers] == [7, 5, 1005, 2005]


def test_precision_and_distillation_are_not_inherited() -> None:
    recipe = resolve_recipe({**NESTED, "precision": {"weights": {"quantizer": "shin", "bits": 2}}})
    assert recipe.init is not None
    assert recipe.init.precision is None and recipe.init.distill is None


def test_a_cotrained_network_starts_from_a_recipe_that_inherits() -> None:
    recipe = resolve_recipe({"distill": {"cotrain": {"init": {}}}, "optim": {"epochs": 4}, "seed": 2})
    assert recipe.distill is not None and recipe.distill.cotrain is not None and recipe.distill.cotrain.init is not None
    assert (recipe.distill.cotrain.init.optim.epochs, recipe.distill.cotrain.init.seed) == (4, 2)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3", 101])
def test_a_count_that_is_no_small_whole_number_is_refused(count: object) -> None:
    with pytest.raises(FieldProblem, match="count must be a whole number from 1 to 100"):
        fill({"distill": {"teachers": [{"count": count}]}})


def test_filling_leaves_the_written_recipe_as_it_is() -> None:
    before = copy.deepcopy(NESTED)
    fill(NESTED)
    assert before == NESTED


def test_null_in_an_overlay_replaces_and_mappings_are_merged() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": {"e": 1}}, {"a": {"c": 3}, "d": None}) == {"a": {"b": 1, "c": 3}, "d": None}


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (("optim", "epochs"), ("optim", "epochs")),
        (("init", "optim", "epochs"), ("init", "optim", "epochs")),
        (("init", "optim", "learning_rate"), ("optim", "learning_rate")),
        (("distill", "teachers", 0, "seed"), ("distill", "teachers", 0, "seed")),
        (("distill", "teachers", 3, "optim", "epochs"), ("distill", "teachers", 1, "optim", "epochs")),
        (("distill", "teachers", 3, "distill", "teachers", 0, "optim", "epochs"), ("distill", "teachers", 1, "optim", "epochs")),
        (("distill", "teachers", 2, "distill", "teachers", 0, "data", "validation"), ("data", "validation")),
        (
            ("distill", "teachers", 2, "distill", "teachers", 0, "model", "width"),
            ("distill", "teachers", 1, "distill", "teachers", 0, "model", "width"),
        ),
    ],
)
def test_every_inherited_value_is_traced_to_where_it_was_written(path: tuple[str | int, ...], written: tuple[str | int, ...]) -> None:
    assert written_path(NESTED, path) == written
