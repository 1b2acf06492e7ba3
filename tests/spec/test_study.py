"""What a run asks of a study: strata, parameters, recipes, baselines, grids, differences."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.errors import SpecError
from kdsearch.spec import bundled
from kdsearch.spec.study import Study, load_study
from tests.spec.examples import PARAMS, joint, study


@pytest.fixture
def example(tmp_path: Path) -> Study:
    return joint(tmp_path)


def test_each_label_of_the_strata_is_a_stratum(example: Study) -> None:
    assert [(one.name, one.slug) for one in example.strata_list()] == [
        ("activations=full", "activations-full"),
        ("activations=a4", "activations-a4"),
    ]
    assert example.stratum("activations-a4").values == {"activations": "a4"}


def test_several_strata_are_chained(tmp_path: Path) -> None:
    found = joint(tmp_path, ("strata: [activations]", "strata: [weights, activations]"))
    assert [one.name for one in found.strata_list()][:2] == ["weights=shin, activations=full", "weights=shin, activations=a4"]
    shin, lsq = found.strata_list()[0], found.strata_list()[2]
    assert "policy" in found.structure(shin).order and "policy" not in found.structure(lsq).order


def test_a_study_without_strata_has_a_nameless_one(tmp_path: Path) -> None:
    (only,) = study(tmp_path, "name: a\nrecipe: {}\n").strata_list()
    assert (only.name, only.slug, only.values) == ("", "best", {})


def test_slugs_are_safe_in_file_names_and_distinct(tmp_path: Path) -> None:
    text = "name: a\nrecipe: {distill: $d}\nstrata: [d]\nspace: {d: {choices: {'a/b': null, 'a b': null, '..': null}}}\n"
    slugs = [one.slug for one in study(tmp_path, text).strata_list()]
    assert len(set(slugs)) == 3 and not any("/" in slug or " " in slug for slug in slugs)


def test_parameters_leave_out_the_strata_and_say_what_they_depend_on(example: Study) -> None:
    found = {one.name: one for one in example.parameters(example.strata_list()[0])}
    assert list(found) == ["width", "temperature", "coefficient", "schedule", "weights", "policy"]
    assert found["policy"].parent == ("weights", "shin")
    assert (found["temperature"].low, found["temperature"].high, found["temperature"].log) == (1, 20, True)
    assert found["width"].choices == [1, 1.5, 2, 4] and found["width"].ordered


def test_a_recipe_holds_the_chosen_values_the_stratum_and_the_seed(example: Study) -> None:
    recipe = example.recipe_for(PARAMS, example.stratum("activations=a4"), 7)
    assert recipe.distill is not None and recipe.precision is not None and recipe.precision.weights is not None
    assert recipe.distill.teachers[0].model.width == 2
    assert recipe.distill.schedule.name == "cr_linear"
    assert recipe.precision.weights.quantizer == "lsq"
    assert recipe.precision.activations is not None and recipe.precision.activations.bits == 4
    assert recipe.seed == recipe.distill.teachers[0].seed == 7


def test_a_conditional_parameter_is_needed_only_where_it_exists(example: Study) -> None:
    stratum = example.strata_list()[0]
    with pytest.raises(SpecError, match="no value for parameter 'policy'"):
        example.recipe_for({**PARAMS, "weights": "shin"}, stratum, 0)
    recipe = example.recipe_for({**PARAMS, "weights": "shin", "policy": "once"}, stratum, 0)
    assert recipe.precision is not None and recipe.precision.weights is not None
    assert recipe.precision.weights.step_policy == "once"


def test_baselines_list_the_few_combinations_their_overlay_leaves_open(example: Study) -> None:
    stratum = example.strata_list()[0]
    found = example.baselines_list(stratum)
    assert [one.label for one in found] == [
        "no_kd (weights=shin, policy=once)",
        "no_kd (weights=shin, policy=every_step)",
        "no_kd (weights=lsq)",
    ]
    recipe = example.recipe_for_baseline(found[0], stratum, 1)
    assert recipe.distill is None and recipe.seed == 1


def test_a_baseline_with_a_search_of_its_own_tries_seeded_configurations(tmp_path: Path) -> None:
    change = ("no_kd: {distill: null}", "hot: {distill: {temperature: 9}, search: 5}")
    one, again = joint(tmp_path, change), joint(tmp_path, change)
    found = one.baselines_list(one.strata_list()[0])
    assert len(found) == 5 and found == again.baselines_list(again.strata_list()[0])
    for baseline in found:
        recipe = one.recipe_for_baseline(baseline, one.strata_list()[0], 0)
        assert recipe.distill is not None and recipe.distill.temperature == 9


GRID = """\
name: g
recipe: {model: {architecture: resnet8}, distill: {teachers: [{model: {width: $w}}], temperature: $t}}
space: {w: {choices: [1, 2, 4]}, t: {low: 1, high: 4, int: true}}
sampler: grid
seeds: [0, 1]
"""


def test_a_grid_plans_every_cell_on_every_seed(tmp_path: Path) -> None:
    found = study(tmp_path, GRID)
    stratum = found.strata_list()[0]
    assert found.is_grid and len(found.grid(stratum)) == 12 and found.planned_trials(stratum) == 24


def test_a_grid_with_a_larger_budget_keeps_the_cells_of_a_smaller_one(tmp_path: Path) -> None:
    few, more = (study(tmp_path, GRID, (f"budget.trials={n}",)) for n in (4, 7))
    small, large = (one.grid(one.strata_list()[0]) for one in (few, more))
    assert len(small) == 4 and len(large) == 7 and all(cell in large for cell in small)


def test_defaults_follow_from_the_recipe(tmp_path: Path) -> None:
    found = joint(tmp_path, ("budget: {trials: 200}", "budget: {}"), overrides=("recipe.optim.epochs=10", "pruner=median"))
    assert found.pruner.warmup == 4, "a third of the epochs"
    assert found.budget.trials == 100
    assert joint(tmp_path, overrides=("pruner={name: median, warmup: 0.5}",)).pruner.warmup == 15


@pytest.mark.parametrize("name", bundled.study_names())
def test_bundled_studies_are_valid_and_survive_being_written_out(name: str, tmp_path: Path) -> None:
    found = load_study(name)
    (tmp_path / "study.yaml").write_text(found.to_yaml(), "utf-8")
    again = load_study(tmp_path)
    assert again == found and again.difference(found) == []
    assert again.to_yaml() == found.to_yaml()


_labels = st.text(min_size=1, max_size=5).filter(lambda text: not text.startswith("$") and text.isprintable() and text != "<<")
_choice = st.integers(1, 50) | st.floats(0.5, 50) | _labels


@given(
    widths=st.lists(st.floats(0.1, 60), min_size=1, max_size=4, unique=True),
    labels=st.lists(_labels, min_size=1, max_size=4, unique=True),
    low=st.floats(0.001, 5),
    span=st.floats(0.1, 100),
    log=st.booleans(),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4, unique=True),
    sampler=st.sampled_from(["tpe", "gp", "random", "qmc"]),
    pruner=st.sampled_from(["none", "median", "percentile", "patient", "sha", "hyperband"]),
    title=st.text(max_size=20).filter(lambda text: not any(0xD800 <= ord(letter) < 0xE000 for letter in text)),
)
@settings(max_examples=60, deadline=None)
def test_any_study_survives_being_written_out(
    tmp_path_factory: pytest.TempPathFactory,
    widths: list[float],
    labels: list[str],
    low: float,
    span: float,
    log: bool,
    seeds: list[int],
    sampler: str,
    pruner: str,
    title: str,
) -> None:
    from kdsearch.spec.yaml_reader import dump_yaml

    fragments = {label: {"name": "cr_step", "steps": index + 2} for index, label in enumerate(labels)}
    data = {
        "name": "any",
        "title": title,
        "recipe": {"distill": {"teachers": [{"model": {"width": "$w"}}], "temperature": "$t", "schedule": "$s"}},
        "space": {"w": {"choices": widths}, "t": {"low": low, "high": low + span, "log": log}, "s": {"choices": fragments}},
        "strata": ["s"],
        "sampler": sampler,
        "pruner": pruner,
        "seeds": seeds,
    }
    folder = tmp_path_factory.mktemp("study")
    (folder / "a.yaml").write_text(dump_yaml(data), "utf-8")
    found = load_study(folder / "a.yaml")
    (folder / "study.yaml").write_text(found.to_yaml(), "utf-8")
    again = load_study(folder)
    assert again == found and again.to_yaml() == found.to_yaml()
    assert found.title == title and list(found.space["s"].labels) == labels


def test_a_study_can_be_sent_to_another_process(example: Study) -> None:
    example.parameters(example.strata_list()[0])
    assert pickle.loads(pickle.dumps(example)) == example


def test_budget_resources_and_appended_seeds_may_change(tmp_path: Path) -> None:
    new = joint(tmp_path, overrides=("budget.trials=300", "budget.minutes=5", "resources.cpu=2", "seeds=[0, 1, 2]", "retries=1", "title=x"))
    assert new.difference(joint(tmp_path)) == []


def test_any_other_edit_is_listed_with_its_old_and_new_value(tmp_path: Path) -> None:
    new = joint(tmp_path, overrides=("space.width.choices=[1, 2]", "recipe.optim.epochs=5", "seeds=[1, 0]", "search_seed=3"))
    assert new.difference(joint(tmp_path)) == [
        "space.width.choices.1: 1.5 -> 2",
        "space.width.choices.2: 2 -> (absent)",
        "space.width.choices.3: 4 -> (absent)",
        "pruner.warmup: 10 -> 2",
        "seeds.0: 0 -> 1",
        "seeds.1: 1 -> 0",
        "search_seed: 0 -> 3",
        "recipe.optim.epochs: (absent) -> 5",
    ]


def test_dropping_a_seed_is_a_difference(tmp_path: Path) -> None:
    assert joint(tmp_path, overrides=("seeds=[0]",)).difference(joint(tmp_path)) == ["seeds.1: 1 -> (absent)"]


def test_spaces_are_taken_from_files_and_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("w: {choices: [1, 2]}\nt: {low: 1, high: 9}\nz: {low: 1, high: 2}\n")
    text = GRID.replace("sampler: grid", "").split("space:")[0] + "space: [wide, {t: {choices: [3, 4]}, z: null}]\n"
    found = study(tmp_path, text, ("space.w.choices=[5, 6]",))
    assert {name: spec.labels for name, spec in found.space.items()} == {"w": [5, 6], "t": [3, 4]}


def test_an_error_in_a_space_file_names_that_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("t: {low: 1, high: 9}\nw:\n  choices: [1, 0]\n")
    with pytest.raises(SpecError) as caught:
        study(tmp_path, "name: a\nrecipe: {model: {width: $w}, distill: {teachers: [{}], temperature: $t}}\nspace: wide\n")
    assert f"{tmp_path / 'wide.yaml'}:3: space.w.choices.1: must be greater than 0, not 0" in str(caught.value)


def test_options_below_a_bare_name_can_be_set(tmp_path: Path) -> None:
    found = joint(
        tmp_path, ("sampler: {name: tpe}", "sampler: tpe"), overrides=("sampler.startup_trials=3", "recipe.distill.teachers.0.seed=4")
    )
    assert found.sampler.startup_trials == 3
    recipe = found.recipe_for(PARAMS, found.strata_list()[0], 0)
    assert recipe.distill is not None and recipe.distill.teachers[0].seed == 4


def test_searching_bits_without_strata_is_allowed_with_a_constraint_or_a_second_objective(tmp_path: Path) -> None:
    no_strata = ("strata: [activations]", "strata: []")
    bounded = joint(tmp_path, no_strata, overrides=('constraints=["model_kib <= 64"]',))
    assert [str(one) for one in bounded.constraints] == ["model_kib <= 64"]
    assert bounded.constraints[0].excess(80) == 16
    two = joint(tmp_path, no_strata, overrides=("objective=[{metric: val_accuracy}, {metric: model_kib}]", "pruner=none"))
    assert [(one.metric, one.direction) for one in two.objectives()] == [("val_accuracy", "maximize"), ("model_kib", "minimize")]


def test_measuring_on_test_data_is_warned_about(tmp_path: Path) -> None:
    assert joint(tmp_path).warnings() == []
    found = joint(tmp_path, overrides=("recipe.data.evaluate_on=test", "objective.metric=test_accuracy"))
    assert "test data" in found.warnings()[0]


def test_studies_and_spaces_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_bundled" / "studies").mkdir(parents=True)
    (tmp_path / "_bundled" / "studies" / "packed.yaml").write_text("name: packed\nrecipe: {}\n")
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path)
    assert bundled.study_names() == ["packed"] and load_study("packed").name == "packed"


def test_a_starter_folder_holds_a_valid_study_and_is_never_overwritten(tmp_path: Path) -> None:
    written = bundled.write_starter(tmp_path / "mine")
    assert load_study(written[0]).name == "my_study"
    assert (tmp_path / "mine" / "schema" / "study.json").is_file()
    with pytest.raises(Exception, match="exists already"):
        bundled.write_starter(tmp_path / "mine")


def test_this_room_loads_no_heavy_library() -> None:
    code = (
        "import sys, kdsearch.spec.study, kdsearch.spec.plan, kdsearch.spec.schema\n"
        "kdsearch.spec.study.load_study('quickstart')\n"
        "print([name for name in ('torch', 'ray', 'optuna', 'plotly', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
