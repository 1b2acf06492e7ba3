"""Recipe files: what is handed over can be trained again under the same key; kinds of files are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.errors import SpecError
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.key import recipe_key
from kdsearch.spec.study import dump_recipe, load_recipe, validate_file
from kdsearch.spec.yaml_reader import dump_yaml
from tests.spec.examples import JOINT

_optims = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 9),
        "learning_rate": st.floats(1e-6, 9),
        "gradient_clip": st.none() | st.floats(0.1, 5),
        "schedule": st.sampled_from(["cosine", "step"]),
    },
)
_datas = st.fixed_dictionaries(
    {}, optional={"root": st.none() | st.sampled_from(["a b", "$x", "~", "1e5"]), "split_seed": st.integers(0, 5)}
)
_leaves = st.fixed_dictionaries({}, optional={"optim": _optims, "data": _datas, "seed": st.integers(0, 9)})


def _with_teachers(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    distill = st.fixed_dictionaries(
        {"teachers": st.lists(children, min_size=1, max_size=2)},
        optional={"temperature": st.floats(0.5, 20), "schedule": st.sampled_from(["constant", "cr_step"])},
    )
    cotrain = st.fixed_dictionaries({"cotrain": st.fixed_dictionaries({}, optional={"init": children})})
    precision = st.sampled_from([{"weights": {"quantizer": "ttq"}, "keep": ["first"]}, {"activations": {"quantizer": "pact", "bits": 3}}])
    return st.fixed_dictionaries(
        {"distill": distill | cotrain},
        optional={"init": children, "optim": _optims, "data": _datas, "seed": st.integers(0, 9), "precision": precision},
    )


@given(st.recursive(_leaves, _with_teachers, max_leaves=5))
@settings(max_examples=100, deadline=None)
def test_a_dumped_recipe_is_read_back_with_the_same_key(tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]) -> None:
    recipe = resolve_recipe(raw)
    path = tmp_path_factory.mktemp("recipe") / "best.yaml"
    path.write_text(dump_yaml({**dump_recipe(recipe), "provenance": {"threads": 2}}), "utf-8")
    again, provenance = load_recipe(path)
    assert again == recipe and provenance == {"threads": 2}
    assert recipe_key(again, lambda data: "x") == recipe_key(recipe, lambda data: "x")


def test_overrides_reach_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("distill: {teachers: [{}], schedule: cr_linear}\n")
    recipe, provenance = load_recipe(tmp_path / "r.yaml", ["seed=7", "distill.schedule.end=0.5"])
    assert recipe.distill is not None
    assert (recipe.seed, recipe.distill.teachers[0].seed, recipe.distill.schedule.end, provenance) == (7, 7, 0.5, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: $seed\n", ":1: seed: $seed is a hole, and a recipe has none"),
        ("model: {width: -1}\n", ":1: model.width: must be greater than 0, not -1"),
        ("distill: {}\n", ":1: distill: distill needs either teachers or cotrain"),
        ("provenance: 3\n", ":1: provenance: must be a mapping, not 3"),
        ("data: {validation: 0}\n", ":1: data.validation: 0 leaves nothing to measure on"),
        ("pretrained: {file: a}\nprecision: {}\n", ":1: pretrained: pretrained replaces training"),
        ("distill: {teachers: [{cuont: 3}]}\n", "did you mean 'count'?"),
        ("distill: {teachers: [{}, {}], hints: [{student: stage1}]}\n", "distill.hints: hints need a single teacher"),
        ("precision: {stages: [{until: 0.5}, {until: 0.2}]}\n", "precision.stages: stages must have rising values of `until`"),
        (
            "distill: {cotrain: {init: {model: {width: 2}}}}\n",
            "distill.cotrain.init.model.width: is 2.0, but the network it starts has 1.0",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert said in str(caught.value)


def test_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    for kind, text in {"study": JOINT, "space": "t: {low: 1, high: 2}\n", "recipe": "model: {width: 2}\n"}.items():
        (tmp_path / "f.yaml").write_text(text)
        assert validate_file(tmp_path / "f.yaml") == kind


def test_a_space_file_is_checked_parameter_by_parameter(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("t: {low: 1, high: 2}\nu:\n  low: 3\n  high: 2\n")
    with pytest.raises(SpecError, match=r"f.yaml:3: u.low: must be below high: 2, not 3"):
        validate_file(tmp_path / "f.yaml")
