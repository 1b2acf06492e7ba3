"""From a study that was really run to files that somebody else can use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kdsearch
from kdsearch.analysis.confirm import REPORT_SEEDS, confirmation
from kdsearch.api import Study
from kdsearch.errors import ExportError, NothingEligible, StoreError, UsageError
from kdsearch.export.bundle import FILES, export_study
from kdsearch.export.recipe import NOT_CONFIRMED, best_of
from kdsearch.export.student import student_of
from kdsearch.record.store import Store
from kdsearch.spec.study import Study as StudySpec
from kdsearch.spec.study import load_recipe
from kdsearch.training.keys import key_of
from kdsearch.training.train import train
from tests.export.conftest import files


@pytest.fixture(scope="module")
def exported(confirmed: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    confirmed.export(out)
    return out


def test_the_best_recipe_of_a_search_trains_again_from_nothing_to_the_very_metrics(searched: Study, tmp_path: Path) -> None:
    recipe, provenance = load_recipe(searched.folder / "best.yaml")
    assert (searched.folder / "best" / "best.yaml").read_text() == (searched.folder / "best.yaml").read_text()
    assert key_of(recipe) == provenance["key"]
    again = train(recipe, Store(tmp_path / "empty"), threads=provenance["threads"])["final"]
    ours = {name: value for name, value in provenance["own_metrics"].items() if name != "train_seconds"}
    assert {name: again[name] for name in ours} == ours
    assert provenance["values"] == {"0": ours["val_accuracy"]}
    assert any("not confirmed" in text for text in provenance["warnings"])
    assert "not multiplied" not in provenance["loss"]
    assert "multiplied by τ²" in provenance["loss"]
    assert len(provenance["runners_up"]) == 2


def test_the_confirmed_recipe_trains_again_from_nothing_to_the_very_metrics(exported: Path, confirmed: Study, tmp_path: Path) -> None:
    recipe, provenance = load_recipe(exported / "best.yaml")
    found = confirmation(confirmed.trials(), confirmed.spec)
    assert found is not None
    assert found.test is not None
    assert recipe.seed == provenance["seed"] == REPORT_SEEDS
    again = train(recipe, Store(tmp_path / "empty"), threads=provenance["threads"])["final"]
    by_seed = {row.seeds[0]: row.metrics[str(row.seeds[0])] for row in confirmed.trials() if row.role == "confirm"}
    assert again["test_accuracy"] == by_seed[REPORT_SEEDS]["test_accuracy"]
    assert again["val_loss"] == by_seed[REPORT_SEEDS]["val_loss"]
    assert provenance["interval"]["mean"] == provenance["value"] == found.test.mean
    assert provenance["n"] == 2
    assert provenance["differences"]["no_kd"]["n"] == 2
    assert provenance["warnings"] == []


def test_the_folder_holds_models_that_are_the_trained_student(exported: Path, confirmed: Study) -> None:
    assert files(exported) == set(FILES)
    recipe, _ = load_recipe(exported / "best.yaml")
    student = student_of(recipe, Store(confirmed.store_root))
    pictures = student.dataset.test().images
    expected = student.trained(student.dataset.normalise(pictures))
    assert torch.equal(kdsearch.load_exported(exported)(pictures), expected)
    assert torch.allclose(torch.export.load(exported / "model.pt2").module()(pictures), expected, atol=1e-5)


def test_the_cards_example_runs_with_onnxruntime_alone(exported: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert len(code.splitlines()) <= 10
    np.save(tmp_path / "images.npy", np.zeros((5, 1, 8, 8), np.uint8))
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    block = "import sys\nfor name in ('torch', 'kdsearch'):\n    sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", block + code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stdout.strip("[]\n").split()) == 5


def test_the_card_says_what_one_has_to_know(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for part in (
        "weights 2 bits (shin)",
        "95% interval",
        "2 seed(s)",
        "τ²",
        "no_kd",
        "`model.onnx` | ",
        "nothing was measured of speed",
        "load_exported",
    ):
        assert part in card, part


def test_a_full_folder_is_kept_unless_forced_and_then_only_exports_are_replaced(searched: Study, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "model.onnx").write_text("of an older export")
    with pytest.raises(UsageError, match="--force"):
        searched.export(tmp_path, formats=["safetensors"])
    done = searched.export(tmp_path, formats=["safetensors"], force=True)
    assert files(tmp_path) == {"mine.txt", "best.yaml", "model.safetensors", "README.md"}
    size, full = done[0].sizes["model.safetensors"]
    assert f"{size:,} bytes; with float32 weights {full:,}" in done[0].text()
    with pytest.raises(UsageError, match="no format 'gguf'"):
        searched.export(tmp_path / "other", formats=["gguf"])


def test_a_confirmation_that_was_cut_off_before_its_report_does_not_count_yet(confirmed: Study) -> None:
    rows = [row for row in confirmed.trials() if not row.seeds or row.seeds[0] < REPORT_SEEDS]
    assert any(row.role == "confirm" for row in rows)
    best = best_of(confirmed.spec, rows, Store(confirmed.store_root))[0]
    assert best.confirmed is None
    assert NOT_CONFIRMED in best.provenance["warnings"]


def test_nothing_finished_is_exit_4_and_says_what_to_do(searched: Study, tmp_path: Path) -> None:
    with pytest.raises(NothingEligible, match="run the study first") as caught:
        export_study(searched.spec, [], searched.store_root, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()


def test_constraints_are_kept_and_impossible_ones_leave_nothing(searched: Study, tmp_path: Path) -> None:
    rows = searched.trials()
    best = best_of(searched.spec, rows, Store(searched.store_root))[0]
    number = best.provenance["trial"]
    for row in rows:
        if row.number == number and row.role == "search":
            row.metrics["0"]["model_kib"] = 1e6
    other = best_of(_with(searched, constraints=["model_kib <= 1000"]), rows, Store(searched.store_root))[0]
    assert other.provenance["trial"] != number
    assert other.provenance["constraints"] == ["model_kib <= 1000"]
    with pytest.raises(NothingEligible, match=r"none of \d+ finished trials keeps model_kib <= 0\.1; give a larger bound"):
        export_study(_with(searched, constraints=["model_kib <= 0.1"]), rows, searched.store_root, tmp_path / "out")


def test_of_two_objectives_the_pareto_front_is_handed_over(searched: Study) -> None:
    study = _with(searched, objective=[{"metric": "val_accuracy"}, {"metric": "model_kib"}])
    rows = searched.trials()
    by_value = sorted((row for row in rows if row.role == "search"), key=lambda row: row.value or 0)
    for size, row in zip((2.0, 9.0, 3.0), by_value, strict=True):  # the middle one is larger than a better one
        row.metrics["0"]["model_kib"] = size
    front = best_of(study, rows, Store(searched.store_root))
    assert [one.provenance["trial"] for one in front] == [by_value[2].number, by_value[0].number]


def _with(study: Study, **changes: object) -> StudySpec:
    return StudySpec.model_validate({**study.spec.to_data(), **changes})


def test_a_network_the_store_lost_is_told(searched: Study, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"kdsearch train best\.yaml"):
        export_study(searched.spec, searched.trials(), tmp_path / "empty", tmp_path / "out")


def test_a_model_that_disagrees_leaves_no_files(searched: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdsearch.export import agreement

    monkeypatch.setattr(agreement, "LOGITS_WITHIN", -1.0)
    monkeypatch.setattr(agreement, "OF_LARGEST", -1.0)
    with pytest.raises(ExportError, match="all must agree"):
        searched.export(tmp_path / "out", formats=["safetensors"])
    assert files(tmp_path / "out") == set()
