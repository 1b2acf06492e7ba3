"""The plan counts what a run trains, each distinct recipe once."""

from __future__ import annotations

import json
from pathlib import Path

from kdsearch.spec.plan import Plan, plan
from tests.spec.examples import joint, study

GRID = """\
name: g
recipe:
  model: {architecture: resnet8}
  init: {model: {architecture: resnet8}}
  distill:
    temperature: $t
    teachers: [{model: {width: $w}, distill: {teachers: [{model: {width: 9}, optim: {epochs: 7}}]}}]
  optim: {epochs: 5}
space: {w: {choices: [1, 2, 4]}, t: {choices: [1, 3]}}
baselines: {no_kd: {distill: null}, scratch: {distill: null, init: null}}
sampler: grid
seeds: [0, 1]
"""


def roles(found: Plan) -> dict[str, tuple[int, int]]:
    return {role.role: (role.recipes, role.epochs) for role in found.roles}


def test_a_grid_is_counted_exactly(tmp_path: Path) -> None:
    found = plan(study(tmp_path, GRID))
    assert roles(found) == {
        "teacher": (2, 2 * 7),  # width 9, one per seed
        "assistant": (6, 6 * 5),  # three widths, one per seed
        "pre-training": (2, 2 * 5),  # the same recipe as the baseline from scratch, counted once
        "baseline": (2, 2 * 5),
        "trial": (12, 12 * 5),
    }
    assert not any(role.upper_bound for role in found.roles)
    assert (found.strata[0].trials, found.strata[0].cells, found.strata[0].baselines) == (12, 6, 4)
    assert found.epochs == 14 + 30 + 10 + 10 + 60


def test_trials_of_an_adaptive_search_are_an_upper_bound_and_shared_teachers_are_exact(tmp_path: Path) -> None:
    found = plan(joint(tmp_path))
    assert [one.name for one in found.strata] == ["activations=full", "activations=a4"]
    by_role = {role.role: role for role in found.roles}
    assert (by_role["teacher"].recipes, by_role["teacher"].upper_bound) == (8, False), "four widths on two seeds"
    assert (by_role["trial"].recipes, by_role["trial"].epochs, by_role["trial"].upper_bound) == (800, 24_000, True)


def test_a_teacher_that_follows_a_continuous_parameter_is_bounded_by_the_trials(tmp_path: Path) -> None:
    text = (
        "name: a\nrecipe: {optim: {learning_rate: $r}, distill: {teachers: [{}]}}\nspace: {r: {low: 0.1, high: 1}}\nbudget: {trials: 6}\n"
    )
    assert roles(plan(study(tmp_path, text))) == {"teacher": (6, 180), "trial": (6, 180)}


def test_teachers_inside_the_choices_of_a_fragment_are_found(tmp_path: Path) -> None:
    text = (
        "name: a\nrecipe: {distill: {teachers: $teachers, temperature: $t}}\nspace:\n  t: {low: 1, high: 9}\n"
        "  teachers: {choices: {one: [{}], five: [{count: 5, model: {width: $w}}]}}\n  w: {choices: [2, 3]}\nbudget: {trials: 6}\n"
    )
    # the single teacher, and five of each width
    assert roles(plan(study(tmp_path, text)))["teacher"] == (11, 330)


def test_the_plan_is_printed_and_is_plain_data(tmp_path: Path) -> None:
    found = plan(study(tmp_path, GRID))
    text = found.text()
    assert "assistant     6                 30" in text and "at most 124 epochs" in text
    assert json.loads(json.dumps(found.to_json()))["roles"][0]["role"] == "teacher"
