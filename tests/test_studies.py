"""The bundled studies and spaces: valid, documented, and ending when they are run small."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdsearch.api import Study
from kdsearch.record.store import Store
from kdsearch.record.trials import TrialRow
from kdsearch.spec.bundled import folder, study_names
from kdsearch.spec.plan import plan
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.schema import json_schema
from kdsearch.spec.smoke import smoke
from kdsearch.spec.study import load_study, validate_file
from kdsearch.spec.study_model import Baseline
from kdsearch.spec.study_model import Study as StudySpec
from kdsearch.training.keys import key_of
from tests.paired import paired

STUDIES = sorted(folder("studies").glob("*.yaml"))
SPACES = sorted(folder("search_spaces").glob("*.yaml"))
FILES = [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in STUDIES + SPACES]
SOURCES = re.compile(r"Shin|Mishra|Polino|Zhuang|Alizadeh|Mirzadeh|WEIGHT_QUANTIZERS|scikit-learn|Temperature x teacher width at 2 bits")
OF_THE_PAPERS = {
    *(f"shin2019_{part}" for part in ("fig1_cifar10", "fig1_cifar100", "fig2_ht_kd", "fig2_kd_kd", "fig2_kd_kd_cr")),
    *(f"shin2019_{part}" for part in ("table4", "table5_ensembles", "one_bit")),
    *(f"apprentice_{part}" for part in ("scheme_a", "scheme_b", "scheme_c", "imagenet")),
    *("qdistill", "qdistill_differentiable", "guided", "alizadeh_few_epochs", "takd", "joint"),
}
QUICK = ("shin2019_table5_ensembles", "takd")
"""With ensembles and with chains of assistants: run small in every test run; the others are marked slow."""


def test_every_system_of_the_papers_has_a_study() -> None:
    assert set(study_names()) >= OF_THE_PAPERS


@pytest.mark.parametrize("path", FILES)
def test_a_bundled_file_is_valid_points_to_its_schema_and_names_its_source(path: Path) -> None:
    assert validate_file(path) == {"studies": "study", "search_spaces": "space"}[path.parent.name]
    first, *rest = path.read_text("utf-8").splitlines()
    pointer = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert pointer is not None
    schema = (path.parent / pointer[1]).resolve()
    assert json.loads(schema.read_text("utf-8")) == json_schema("study" if path in STUDIES else "space")
    head = "\n".join(line for line in rest[:12] if line.startswith("#"))
    assert SOURCES.search(head), "the comment at the top names the paper, and its table or figure"
    assert len(rest) <= 60, "short enough to read as documentation"


@pytest.mark.parametrize("name", study_names())
def test_a_study_loads_to_an_equal_one_from_what_its_run_writes_down(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    assert study.name == name
    written = tmp_path / "study.yaml"
    written.write_text(study.to_yaml(), "utf-8")
    again = load_study(written)
    assert again == study
    assert not again.difference(study)


@pytest.mark.parametrize("name", sorted(OF_THE_PAPERS))
def test_a_study_of_a_paper_chooses_on_validation_data_and_has_something_to_compare_with(name: str) -> None:
    study = load_study(name)
    assert study.objective.metric == "val_accuracy"
    assert study.overlays
    if study.is_grid:
        assert len(study.seeds) >= 3
    for recipe in _recipes(study):
        assert recipe.data.evaluate_on == "validation"


@pytest.mark.parametrize("name", [name for name in sorted(OF_THE_PAPERS) if name.startswith("shin2019")])
def test_the_papers_own_protocol_is_three_settings_away(name: str) -> None:
    changes = ("recipe.data.evaluate_on=test", "recipe.data.validation=0", "objective.metric=test_accuracy")
    assert all(change in (folder("studies") / f"{name}.yaml").read_text("utf-8") for change in changes)
    assert load_study(name, changes).objective.metric == "test_accuracy"


@pytest.mark.parametrize("name", study_names())
def test_a_smoke_study_is_small_and_keeps_what_makes_the_study_itself(name: str) -> None:
    study = load_study(name)
    small = smoke(study)
    assert small.name == f"{name}-smoke"
    assert smoke(small) is small
    assert [one.name for one in small.strata_list()] == [one.name for one in study.strata_list()]
    assert small.sampler == study.sampler
    assert len(small.seeds) == 1
    for big, little in zip(_firsts(study), _firsts(small), strict=True):
        assert _systems(big) == _systems(little)
    for recipe in _recipes(small):
        for one in _family(recipe):
            assert (one.data.name, one.model.architecture, one.optim.batch_size) == ("digits", "resnet8", 64)
            assert one.model.width <= 2
            assert one.optim.epochs <= 2
    assert plan(small).to_json()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in study_names()])
def test_a_smoke_run_ends_and_trains_each_distinct_recipe_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: Counter[str] = Counter()
    write = Store.write

    def counted(store: Store, key: str, *rest: Any, **options: Any) -> Any:
        written[key] += 1
        return write(store, key, *rest, **options)

    monkeypatch.setattr(Store, "write", counted)
    job = Study(name, output=tmp_path / "runs", store=tmp_path / "store", smoke=True)
    outcome = job.run(inline=True, quiet=True)
    assert outcome.exit_code == 0
    rows = job.trials()
    assert all(row.state in ("COMPLETE", "PRUNED") for row in rows)
    for stratum in job.spec.strata_list():
        found = [row for row in rows if row.role == "search" and row.stratum == stratum.name]
        assert len(found) == job.spec.planned_trials(stratum) <= 4
    pruned = {row.key for row in rows if row.state == "PRUNED"}
    needed = {key_of(one) for row in rows for recipe in _trained(job.spec, row) for one in _family(recipe)}
    assert set(written) == needed - pruned, "what was trained is what the trials name, with their teachers and starts"
    assert set(written.values()) == {1}
    again = Study(name, output=tmp_path / "again", store=tmp_path / "store", smoke=True)
    assert again.run(inline=True, quiet=True).exit_code == 0
    assert set(written.values()) == {1}, "another run finds everything in the store"
    assert (job.folder / "report.html").is_file()


def test_five_equal_teachers_are_five_recipes_shared_by_every_cell() -> None:
    study = smoke(load_study("shin2019_table5_ensembles"))
    by_label: dict[str, set[str]] = {}
    for stratum in study.strata_list():
        for params in study.grid(stratum):
            teachers = study.recipe_for(params, stratum, 0).children()
            by_label.setdefault(params["teachers"], set()).update(key_of(one) for role, one in teachers.items() if role != "init")
    assert {label: len(keys) for label, keys in by_label.items() if label in ("one", "five", "mix")} == {
        label: {"one": 1, "five": 5, "mix": 7}[label] for label in by_label
    }


def test_paired_differences_are_taken_seed_by_seed_and_against_baselines() -> None:
    def row(value: float, seed: int, baseline: str | None = None, **params: object) -> TrialRow:
        role = "baseline" if baseline else "search"
        return TrialRow(0, "s", "", role, baseline, "COMPLETE", value, params, seeds=[seed], values={str(seed): value})

    rows = [row(10 * seed + gain, seed, labels=labels, bits=2) for seed in (0, 1, 2) for labels, gain in (("hard", 0), ("kd", 1 + seed))]
    rows += [row(10 * seed - 1, seed, "no_kd") for seed in (0, 1)]
    [(rest, (mean, half, n))] = paired(rows, "labels=kd", "labels=hard").items()
    assert (rest, mean, n) == ((("bits", "2"),), 2.0, 3)
    assert half == pytest.approx(4.303 * 1 / 3**0.5, abs=1e-3)
    assert paired(rows, "labels=hard", "baseline=no_kd") == {(("bits", "2"),): (1.0, 0.0, 2)}


def _trained(study: StudySpec, row: TrialRow) -> list[Recipe]:
    stratum = study.stratum(row.stratum) if row.stratum else study.strata_list()[0]
    if row.baseline is None:
        return [study.recipe_for(row.params, stratum, int(seed)) for seed in row.keys]
    return [study.recipe_for_baseline(Baseline(row.baseline, row.params), stratum, int(seed)) for seed in row.keys]


def _firsts(study: StudySpec) -> list[Recipe]:
    """The first configuration of each stratum, and every baseline's."""
    found = []
    for stratum in study.strata_list():
        found.append(study.recipe_for(study.structure(stratum).assignment(), stratum, study.seeds[0]))
        for name in study.overlays:
            one = study.baselines_of(stratum, name)[0]
            found.append(study.recipe_for_baseline(one, stratum, study.seeds[0]))
    return found


def _recipes(study: StudySpec) -> list[Recipe]:
    """Every corner of a study: each label and both ends of each parameter, the others at their first."""
    found = _firsts(study)
    for stratum in study.strata_list():
        structure = study.structure(stratum)
        for name in structure.order:
            for value in study.space[name].corners():
                found.append(study.recipe_for(structure.assignment({name: value}), stratum, study.seeds[0]))
    return found


def _family(recipe: Recipe) -> list[Recipe]:
    return [recipe, *(one for child in recipe.children().values() for one in _family(child))]


def _systems(recipe: Recipe) -> list[object]:
    """What of a recipe a smoke run must not change: who is there, quantizers, losses, schedules."""
    parts: list[object] = []
    for one in _family(recipe):
        distill = one.distill
        parts.append((one.precision, one.init is None, one.optim.learning_rate))
        if distill is not None:
            parts.append((len(distill.teachers), distill.temperature, distill.coefficient, distill.schedule, distill.loss))
            parts.append((distill.cotrain is None, len(distill.hints)))
    return parts
