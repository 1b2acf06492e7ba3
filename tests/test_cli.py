"""The command line from end to end: a study on digits, what it leaves, and how it says no."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kdsearch.cli import main
from kdsearch.record.trials import TrialRow

STUDY = """
name: tiny
recipe:
  data: {name: digits, validation: 0.4, train_fraction: 0.3, augment: shift}
  model: &student {architecture: resnet8, width: 0.2}
  precision: {weights: {quantizer: shin, bits: $bits}}
  init: {model: *student}
  distill: {teachers: [{model: {architecture: resnet8, width: $width}}], temperature: $temperature, coefficient: 0.5}
  optim: {epochs: 2, batch_size: 64, learning_rate: 0.05}
space:
  bits: {choices: [1, 2]}
  width: {choices: [0.25, 0.5], ordered: true}
  temperature: {low: 1, high: 10, log: true}
strata: [bits]
baselines: {no_kd: {distill: null}}
pruner: none
budget: {trials: 2}
seeds: [0, 1]
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kdsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process; gives exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdsearch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``tiny`` has run."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(STUDY)
    from kdsearch import Study

    assert Study(folder / "tiny.yaml", output=folder / "runs", store=folder / "store").run(inline=True, quiet=True).exit_code == 0
    return folder


def test_a_run_leaves_its_study_record_report_figures_and_best_recipes(folder: Path) -> None:
    left = {str(path.relative_to(folder / "runs/tiny")) for path in (folder / "runs/tiny").rglob("*") if path.is_file()}
    assert {"study.yaml", "journal.log", "report.html", "best/bits-1.yaml", "best/bits-2.yaml"} <= left
    assert any(name.startswith("figures/") and name.endswith(".csv") for name in left)


def test_trials_as_json_are_objects_with_the_promised_fields(folder: Path, kdsearch: Run) -> None:
    code, out, _ = kdsearch("trials", folder / "runs/tiny", "--json")
    rows = json.loads(out)
    assert code == 0
    assert sorted(row["role"] for row in rows) == ["baseline"] * 4 + ["search"] * 4
    promised = {"number", "study", "stratum", "state", "value", "params", "seeds", "epochs", "key", "role"}
    for row in rows:
        assert promised <= set(row) == {field.name for field in dataclasses.fields(TrialRow)}
        assert row["state"] == "COMPLETE" and len(row["intermediate"]) == 2
        assert row["seeds"] == ([0, 1] if row["role"] == "search" else row["seeds"])


def test_a_run_of_a_finished_study_changes_no_trial(folder: Path, kdsearch: Run) -> None:
    _, before, _ = kdsearch("trials", folder / "runs/tiny", "--json")
    code, out, err = kdsearch("run", folder / "tiny.yaml", "--output", folder / "runs", "--store", folder / "store", "--inline", "--json")
    assert code == 0, err
    assert json.loads(out)["exit_code"] == 0
    assert kdsearch("trials", folder / "runs/tiny", "--json")[1] == before


def test_the_best_recipe_trained_from_an_empty_store_gives_the_trials_metrics_exactly(folder: Path, kdsearch: Run, tmp_path: Path) -> None:
    best = folder / "runs/tiny/best/bits-2.yaml"
    provenance = yaml.safe_load(best.read_text())["provenance"]
    code, out, _ = kdsearch("train", best, "--store", tmp_path / "empty", "--json")
    assert code == 0
    final = json.loads(out)["final"]
    for name, value in provenance["own_metrics"].items():
        if name not in {"train_seconds", "seconds"}:
            assert final[name] == value, name


def test_status_and_best_count_what_the_record_holds(folder: Path, kdsearch: Run) -> None:
    _, out, _ = kdsearch("status", folder / "runs/tiny", "--json")
    assert [(row["stratum"], row["trials"], row["complete"]) for row in json.loads(out)] == [("bits=1", "2/2", 2), ("bits=2", "2/2", 2)]
    _, out, _ = kdsearch("best", folder / "runs/tiny", "--top", 2, "--json")
    chosen = json.loads(out)
    values = [entry["value"] for entry in chosen if entry["stratum"] == "bits=2"]
    assert values == sorted(values, reverse=True) and len(values) == 2
    code, out, _ = kdsearch("trials", folder / "runs/tiny", "--csv")
    assert code == 0 and len(out.splitlines()) == 9


def test_an_edit_that_is_no_extension_is_an_error_that_shows_the_difference(folder: Path, kdsearch: Run) -> None:
    code, _, err = kdsearch("run", folder / "tiny.yaml", "--output", folder / "runs", "--set", "recipe.optim.epochs=3", "--inline")
    assert code == 2 and "recipe.optim.epochs" in err and "2 -> 3" in err


def test_nothing_to_show_is_exit_four_and_says_what_to_do(kdsearch: Run, tmp_path: Path) -> None:
    for command in (["trials"], ["best"], ["report"], ["export", "--out", tmp_path / "out"], ["dashboard"]):
        code, _, err = kdsearch(*command[:1], "quickstart", *command[1:], "--output", tmp_path)
        assert code == 4 and "kdsearch run" in err, command


def _picture_study(folder: Path, root: Path) -> Path:
    study = yaml.safe_load(STUDY)
    study["recipe"]["data"] = {"name": "imagefolder", "root": str(root), "validation": 0.25}
    study.update(budget={"trials": 1}, seeds=[0])
    path = folder / "pictures.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def _pictures(root: Path) -> None:
    draw = np.random.default_rng(0)
    for label, bright in enumerate((60, 190)):
        (root / "train" / str(label)).mkdir(parents=True)
        for i in range(24):
            pixels = draw.normal(bright, 30, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "train" / str(label) / f"{i}.png")


def test_a_study_runs_on_a_folder_of_pictures(kdsearch: Run, tmp_path: Path) -> None:
    _pictures(tmp_path / "pictures")
    study = _picture_study(tmp_path, tmp_path / "pictures")
    code, out, _ = kdsearch("run", study, "--inline", "--output", tmp_path / "runs", "--store", tmp_path / "store", "--json")
    assert code == 0 and [counts["complete"] for counts in json.loads(out)["strata"].values()] == [2, 1, 1]


def test_broken_data_is_one_message_before_anything_starts(kdsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _pictures(tmp_path / "broken")
    (tmp_path / "broken/train/0/3.png").write_bytes(b"no picture")
    for root, named in (("empty", "train/"), ("broken", "3.png")):
        code, _, err = kdsearch("run", _picture_study(tmp_path, tmp_path / root), "--inline", "--output", tmp_path / "runs")
        assert code == 2 and named in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_recipe_whose_loss_is_not_finite_fails_with_the_reason_and_the_study_goes_on(kdsearch: Run, tmp_path: Path) -> None:
    study = yaml.safe_load(STUDY)
    study["recipe"]["optim"]["learning_rate"] = "$rate"
    study["space"]["rate"] = {"choices": [0.05, 1e9]}
    study.update(sampler="grid", seeds=[0], strata=[], baselines={})
    study["space"]["temperature"] = {"choices": [4]}
    study["recipe"]["init"] = None
    study["recipe"]["distill"]["teachers"][0]["optim"] = {"learning_rate": 0.05}
    study["budget"] = {"trials": 8}
    (tmp_path / "nan.yaml").write_text(yaml.safe_dump(study))
    code, _, _ = kdsearch("run", tmp_path / "nan.yaml", "--inline", "--output", tmp_path / "runs", "--store", tmp_path / "store", "--quiet")
    rows = json.loads(kdsearch("trials", tmp_path / "runs/tiny", "--json")[1])
    assert code == 3
    assert {row["params"]["rate"]: row["state"] for row in rows} == {0.05: "COMPLETE", 1e9: "FAIL"}
    assert all("loss is" in row["reason"] and "learning_rate" in row["reason"] for row in rows if row["state"] == "FAIL")
