"""Parameters, holes and what exists when."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdsearch.spec.base import FieldProblem
from kdsearch.spec.space import ParameterSpec, Structure, filled, place


def space(**raw: Any) -> dict[str, ParameterSpec]:
    return {name: ParameterSpec.model_validate(one) for name, one in raw.items()}


NESTED = space(
    outer={"choices": {"plain": None, "deep": {"x": "$inner", "y": "$number"}}},
    inner={"choices": {"p": {"z": "$number"}, "q": {"z": "$leaf"}}},
    number={"low": 1, "high": 3, "int": True},
    leaf={"choices": [7, 8]},
    always={"choices": ["a", "b"]},
)
TREE = {"first": "$outer", "list": ["$always", 1], "money": "$$5"}


def test_holes_take_values_of_any_type_in_mappings_and_lists() -> None:
    values = {"outer": "deep", "inner": "q", "number": 2, "leaf": 8, "always": "b"}
    assert filled(TREE, values, NESTED) == {"first": {"x": {"z": 8}, "y": 2}, "list": ["b", 1], "money": "$5"}
    assert filled(TREE, {**values, "outer": "plain"}, NESTED)["first"] is None


def test_parameters_inside_fragments_exist_only_there() -> None:
    structure = Structure(TREE, NESTED, {})
    parents = {parameter.name: parameter.parents for parameter in structure.parameters()}
    assert parents["outer"] == parents["always"] == ()
    assert parents["inner"] == (("outer", "deep"),)
    assert set(parents["number"]) == {("outer", "deep"), ("inner", "p")}
    assert parents["leaf"] == (("inner", "q"),)


def test_parents_come_before_what_depends_on_them() -> None:
    backwards = dict(reversed(NESTED.items()))
    order = Structure(TREE, backwards, {}).order
    assert order.index("outer") < order.index("inner") < order.index("leaf")


def test_a_fixed_parameter_frees_what_its_fragment_holds_and_drops_the_rest() -> None:
    deep, plain = (Structure(TREE, NESTED, {"outer": label}) for label in ("deep", "plain"))
    assert {p.name: p.parents for p in deep.parameters()} == {"inner": (), "number": (), "leaf": (("inner", "q"),), "always": ()}
    assert plain.order == ["always"]


def test_a_hole_in_every_fragment_of_a_parameter_always_exists() -> None:
    known = space(kind={"choices": {"a": {"v": "$x"}, "b": {"w": "$x"}}}, x={"low": 0, "high": 1})
    assert [parameter.parents for parameter in Structure("$kind", known, {}).parameters()] == [(), ()]


def test_a_grid_lists_each_combination_that_exists_once() -> None:
    cells = Structure(TREE, NESTED, {}).grid()
    # plain: 2 of `always`; deep: (p or q with 2 leaves) times 3 numbers times 2
    assert len(cells) == 2 + (1 + 2) * 3 * 2
    assert len({str(sorted(cell.items())) for cell in cells}) == len(cells)


def test_a_continuous_parameter_cannot_be_listed() -> None:
    with pytest.raises(FieldProblem, match="continuous"):
        Structure("$x", space(x={"low": 0, "high": 1}), {}).grid()


def test_a_parameter_inside_itself_is_refused() -> None:
    known = space(a={"choices": {"x": "$b"}}, b={"choices": {"y": {"z": "$a"}}})
    with pytest.raises(FieldProblem, match="stands inside itself"):
        Structure("$a", known, {})


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_sample_is_accepted_and_fills_every_hole(draw: random.Random) -> None:
    structure = Structure(TREE, NESTED, {})
    params = structure.sample(draw)
    assert structure.check(params) == params
    assert "$" not in str(filled(TREE, params, NESTED)).replace("$5", "")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no value for parameter 'outer'"),
        ({"outer": "deap", "always": "a"}, "parameter 'outer': 'deap' is no choice; allowed: plain, deep"),
        ({"outer": "plain", "always": "a", "allways": 1}, "no parameter 'allways' here; did you mean 'always'?"),
        ({"outer": "deep", "inner": "p", "number": 4, "always": "a"}, "parameter 'number': 4 is outside 1 to 3"),
        ({"outer": "deep", "inner": "p", "number": True, "always": "a"}, "parameter 'number': true is outside"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldProblem) as caught:
        Structure(TREE, NESTED, {}).check(params)
    assert said in str(caught.value)


def test_values_that_do_not_exist_under_the_others_are_left_out() -> None:
    assert Structure(TREE, NESTED, {}).check({"outer": "plain", "always": "a", "leaf": 7}) == {"outer": "plain", "always": "a"}


def test_levels_of_ranges_and_choices() -> None:
    known = space(
        i={"low": 1, "high": 4, "int": True}, s={"low": 0, "high": 0.3, "step": 0.1}, c={"low": 0, "high": 1}, t={"choices": [2, 1]}
    )
    assert {name: spec.levels() for name, spec in known.items()} == {"i": [1, 2, 3, 4], "s": [0, 0.1, 0.2, 0.3], "c": None, "t": [2, 1]}


def test_a_choice_is_given_back_as_it_was_written() -> None:
    spec = space(t={"choices": [1, 1.5, "1"]})["t"]
    assert type(spec.normal(1.0)) is int
    assert spec.normal("1") == "1"
    with pytest.raises(FieldProblem):
        spec.normal(True)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"low": 2, "high": 1}, "must be below high: 1, not 2"),
        ({"low": 1, "high": 1}, "must be below high"),
        ({"low": 0, "high": 1, "log": True}, "must be greater than 0 on a log scale"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "a log scale has no step"),
        ({"low": 1.5, "high": 2, "int": True}, "must be a whole number"),
        ({"low": 0, "high": 1, "step": 0.3}, "does not divide the range"),
        ({"low": 1}, "needs either choices, or low and high"),
        ({"choices": []}, "must hold 1 to 1000 choices"),
        ({"choices": 3}, "must be a list, or a mapping"),
        ({"choices": [{"a": 1}]}, "needs a label"),
        ({"choices": ["$x"]}, "needs a label"),
        ({"choices": [1, 1.0]}, "stands twice"),
        ({"choices": [1], "low": 1}, "has no 'low'"),
        ({"chioces": [1]}, "did you mean 'choices'?"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ParameterSpec.model_validate(raw)
    assert said in str(caught.value)


def test_a_value_is_traced_through_fragments_to_where_it_was_written() -> None:
    values = {"outer": "deep", "inner": "q", "number": 3, "leaf": 8, "always": "b"}
    assert place(TREE, ("first", "x", "z"), values, NESTED, ("recipe",)) == ("space", "leaf", "choices", 1)
    assert place(TREE, ("first", "y"), values, NESTED, ("recipe",)) == ("space", "number", "high")
    assert place(TREE, ("first", "x", "w"), values, NESTED, ("recipe",)) == ("space", "inner", "choices", "q", "w")
    assert place(TREE, ("list", 1), values, NESTED, ("recipe",)) == ("recipe", "list", 1)
