"""The schemas accept what is valid and refuse what an editor should underline."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import pytest

from kdsearch.spec import bundled
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.schema import json_schema
from kdsearch.spec.study import dump_recipe, load_study, validate_file
from kdsearch.spec.yaml_reader import parse_yaml, read_yaml
from tests.spec.examples import JOINT

jsonschema = pytest.importorskip("jsonschema")
Kind = Literal["study", "space", "recipe"]


def faults(kind: Kind, data: Any) -> list[str]:
    return [error.json_path for error in jsonschema.Draft202012Validator(json_schema(kind)).iter_errors(data)]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_schema_is_a_schema_and_the_file_beside_what_it_describes_is_it(kind: Kind) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    folder = "search_spaces" if kind == "space" else "studies"
    kept = json.loads((bundled.folder(folder) / "schema" / f"{kind}.json").read_text("utf-8"))
    assert kept == schema, f"write it anew: kdsearch schema {kind} > {folder}/schema/{kind}.json"


@pytest.mark.parametrize("name", bundled.space_names())
def test_bundled_spaces_are_valid_and_fit_the_schema(name: str) -> None:
    path = bundled.space_path(name)
    assert path is not None and validate_file(path) == "space"
    assert faults("space", read_yaml(path).data) == []


@pytest.mark.parametrize("name", bundled.study_names())
def test_bundled_studies_fit_the_schema_as_written_and_written_out(name: str) -> None:
    path = bundled.study_path(name)
    assert path is not None and "$schema=./schema/study.json" in path.read_text("utf-8")
    assert faults("study", read_yaml(path).data) == []
    assert faults("study", load_study(name).to_data()) == []


def test_holes_shorthand_and_short_children_fit() -> None:
    data = parse_yaml(JOINT, "joint").data
    data["recipe"]["distill"]["teachers"] = "$teachers"
    data["recipe"]["optim"] = {"epochs": "$epochs"}
    data["baselines"]["few"] = {"distill": {"teachers": [{"count": 5}]}, "search": 3}
    data["sampler"], data["space"] = "tpe", ["kd", {"a": {"choices": [1]}}]
    assert faults("study", data) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe.data.nmae", "digits"),
        ("recipe.data.validation", 2),
        ("recipe.model.architecture", "resnet21"),
        ("recipe.optim", 3),
        ("sampler", "tpes"),
        ("budget.trials", 0),
        ("space.width", 3),
        ("name", "a/b"),
        ("seeds", "0"),
        ("objective.metric", "accuracy"),
        ("colour", "red"),
    ],
)
def test_what_is_wrong_is_underlined(path: str, value: object) -> None:
    data = parse_yaml(JOINT, "joint").data
    here = data
    *steps, last = path.split(".")
    for step in steps:
        here = here.setdefault(step, {})
    here[last] = value
    assert faults("study", data)


def test_a_recipe_with_provenance_fits_and_a_hole_in_it_does_not() -> None:
    recipe = dump_recipe(resolve_recipe({"distill": {"teachers": [{"count": 2, "distill": {"teachers": [{}]}}]}}))
    assert faults("recipe", {**recipe, "provenance": {"study": "a"}}) == []
    assert faults("recipe", {"seed": "$seed"})


def test_a_space_fits() -> None:
    assert faults("space", parse_yaml(JOINT, "joint").data["space"]) == []
    assert faults("space", {"a": {"low": 1}})
