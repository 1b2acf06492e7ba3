"""Training for real, on digits: resuming, replaying, children, failing."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdsearch.errors import Diverged
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import load
from kdsearch.training.evaluate import evaluate, load_trained
from kdsearch.training.keys import key_of
from kdsearch.training.quantizers.base import quantized_layers
from kdsearch.training.session import Session
from kdsearch.training.train import train

Make = Callable[..., Recipe]
SHIN = {"weights": {"quantizer": "shin", "bits": 2}}
TEACHER = {"model": {"architecture": "resnet8", "width": 0.5}}
DISTILL = {"teachers": [TEACHER], "temperature": 3, "coefficient": 0.6, "schedule": "cr_linear"}


def _timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without what a clock says."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in metrics["epochs"]]
    final = {name: value for name, value in metrics["final"].items() if name != "train_seconds"}
    return {**metrics, "epochs": rows, "final": final}


def test_a_network_learns_digits_and_its_entry_says_how(store: Store, recipe: Make) -> None:
    made = recipe(optim={"epochs": 6, "batch_size": 32, "learning_rate": 0.1}, model={"architecture": "resnet8", "width": 0.5})
    rows = []
    metrics = train(made, store, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert metrics["final"]["val_accuracy"] == rows[-1]["val_accuracy"] > 60
    assert metrics["environment"]["threads"] == 1
    assert store.entry(key_of(made)).metrics == metrics
    found = evaluate(made, store, "validation")
    assert found["val_accuracy"] == metrics["final"]["val_accuracy"]
    assert evaluate(made, store, "test")["count"] == 297


def test_a_finished_run_is_replayed_row_by_row(store: Store, recipe: Make) -> None:
    first = train(recipe(), store)
    with Session(recipe(), store) as session:
        assert not session.finished
        assert [session.step(), session.step()] == first["epochs"]
        assert session.finished
        with pytest.raises(RuntimeError, match="finished"):
            session.step()
    with Session(recipe(), store) as session:
        assert session.skip_recorded() == 1
        assert session.step() == first["epochs"][-1]


RESUMED: dict[str, dict[str, Any]] = {
    "full": {},
    "shin_kd": {"precision": SHIN, "init": {"model": {"architecture": "resnet8", "width": 0.25}}, "distill": DISTILL},
    "lsq_pact": {"precision": {"weights": {"quantizer": "lsq", "bits": 3}, "activations": {"quantizer": "pact", "bits": 4}}},
    "every_k": {"precision": {"weights": {"quantizer": "shin", "bits": 1, "step_policy": "every_k", "every": 4}}},
    "cotrain_hints": {
        "distill": {"cotrain": TEACHER, "coefficient": 0.5, "hints": [{"student": "stage2"}], "loss": {"hard_weight": 0.5}},
    },
    "stages": {
        "precision": {
            "weights": {"quantizer": "shin", "bits": 2},
            "stages": [{"until": 0.4}, {"until": 0.6, "weights": {"quantizer": "shin", "bits": 4}}],
        }
    },
    "adam": {"optim": {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "optimizer": "adam", "gradient_clip": 1.0}},
}


@pytest.mark.parametrize("system", RESUMED)
def test_a_run_cut_off_after_any_epoch_ends_with_exactly_the_same_metrics_and_weights(tmp_path: Path, recipe: Make, system: str) -> None:
    made = recipe(**{"optim": {"epochs": 3, "batch_size": 64, "learning_rate": 0.05}, **RESUMED[system]})
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    expected = train(made, whole)
    for epoch in range(1, 4):
        with Session(made, cut) as session:
            assert session.recorded == epoch - 1
            assert session.skip_recorded() == epoch - 1
            session.step()
    assert session.finished
    assert _timeless(session.metrics) == _timeless(expected)
    key = key_of(made)
    first, second = load_file(whole.entry(key).weights), load_file(cut.entry(key).weights)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert cut.latest_checkpoint(key) is None


KILLED = """
import os, signal, sys
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.session import Session
session = Session(Recipe.model_validate_json(sys.argv[1]), Store(sys.argv[2]))
session.step()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_a_run_that_goes_on_from_its_last_epoch(tmp_path: Path, recipe: Make) -> None:
    made = recipe(precision=SHIN)
    expected = train(made, Store(tmp_path / "whole"))
    command = [sys.executable, "-c", KILLED, made.model_dump_json(), str(tmp_path / "cut")]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    with Session(made, Store(tmp_path / "cut")) as session:
        assert session.recorded == 1
        while not session.finished:
            session.step()
    assert _timeless(session.metrics) == _timeless(expected)


def test_children_are_trained_once_and_their_progress_is_told(store: Store, recipe: Make) -> None:
    events: list[dict[str, Any]] = []
    shared = {"init": {"model": {"architecture": "resnet8", "width": 0.25}}, "precision": SHIN}
    train(recipe(distill=DISTILL, **shared), store, on_progress=events.append)
    assert [event["role"] for event in events] == ["init"] * 2 + ["teachers.0"] * 2 + [""] * 2
    assert len(list(store.keys())) == 3
    events.clear()
    train(recipe(distill={**DISTILL, "temperature": 9}, **shared), store, on_progress=events.append)
    assert [event["role"] for event in events] == ["", ""]
    assert len(list(store.keys())) == 4


def test_a_teacher_assistant_is_a_teacher_that_has_a_teacher(store: Store, recipe: Make) -> None:
    assistant = {"model": {"architecture": "resnet8", "width": 0.375}, "distill": {"teachers": [TEACHER], "temperature": 2}}
    events: list[dict[str, Any]] = []
    train(recipe(distill={"teachers": [assistant]}), store, on_progress=events.append)
    assert list(dict.fromkeys(event["role"] for event in events)) == ["teachers.0.teachers.0", "teachers.0", ""]


def test_a_loss_that_is_not_finite_names_its_epoch_and_what_to_do(store: Store, recipe: Make) -> None:
    made = recipe(optim={"epochs": 2, "batch_size": 32, "learning_rate": 1e9})
    with (
        pytest.raises(Diverged, match=r"epoch \d: the \w+ loss is (nan|inf); lower optim.learning_rate \(now 1e\+09\)"),
        Session(made, store) as s,
    ):
        while not s.finished:
            s.step()
    assert not store.has(key_of(made))
    with store.lease(key_of(made), wait=False):
        pass


def test_a_quantized_layer_holds_only_its_values_and_kept_layers_more(store: Store, recipe: Make) -> None:
    made = recipe(precision={**SHIN, "keep": ["first", "last"]})
    train(made, store)
    model = load_trained(made, store, key=key_of(made), dataset=load(made.data))
    quantized = quantized_layers(model)
    assert "conv1" not in quantized and "fc" not in quantized and len(quantized) == 6
    for name in quantized:
        assert len(model.get_submodule(name).weight.unique()) <= 3  # type: ignore[operator,union-attr]
    assert len(model.fc.weight.unique()) > 3  # type: ignore[operator,union-attr]


def test_init_starts_from_the_weights_of_its_recipe(store: Store, recipe: Make) -> None:
    child = {"model": {"architecture": "resnet8", "width": 0.25}}
    made = recipe(init=child)
    with Session(made, store) as session:
        theirs = load_file(store.entry(key_of(made.init)).weights)  # type: ignore[arg-type]
        assert all(torch.equal(value, theirs[name]) for name, value in session.model.state_dict().items())


def test_teachers_do_not_change_and_a_cotrained_network_does(store: Store, recipe: Make) -> None:
    made = recipe(distill=DISTILL)
    train(made, store)
    assert made.distill is not None
    teacher = store.entry(key_of(made.distill.teachers[0])).weights
    before = teacher.read_bytes()
    train(recipe(distill={**DISTILL, "hints": [{"student": "stage2"}]}), store)
    assert teacher.read_bytes() == before
    with Session(recipe(distill={"cotrain": TEACHER, "loss": {"hard_weight": 0.5}, "temperature": 1}), store) as session:
        assert session.cotrained is not None
        start = {name: value.clone() for name, value in session.cotrained.named_parameters()}
        first = session.step()
        assert all(not torch.equal(value, start[name]) for name, value in session.cotrained.named_parameters())
        second = session.step()
    assert second["train_loss"] < first["train_loss"]
    assert 0 < session.metrics["final"]["teacher_accuracy"] <= 100


def test_measuring_on_test_data_says_so_in_its_metrics(store: Store, recipe: Make) -> None:
    data = {"name": "digits", "validation": 0, "train_fraction": 0.1, "evaluate_on": "test"}
    row = train(recipe(data=data, distill=DISTILL), store)["epochs"][-1]
    assert "test_accuracy" in row and "val_accuracy" not in row


def test_entropy_of_teachers_grows_with_temperature_towards_log_10(store: Store, recipe: Make) -> None:
    entropies = [
        train(recipe(distill={**DISTILL, "temperature": temperature}), store)["final"]["teacher_entropy"] for temperature in (1, 5, 1000)
    ]
    assert entropies[0] < entropies[1] < entropies[2]
    assert entropies[2] == pytest.approx(math.log(10), abs=1e-4)


def test_bits_make_the_model_small(store: Store, recipe: Make) -> None:
    full = train(recipe(), store)["final"]
    small = train(recipe(precision=SHIN), store)["final"]
    assert full["model_kib"] == pytest.approx(full["parameters"] * 4 / 1024)
    weights = 9 * (4 + 2 * 16 + 32 + 64 + 128 + 256) + 160  # convolutions and fc of a resnet8 with 4, 8 and 16 channels
    assert small["parameters"] == full["parameters"]
    assert small["model_kib"] == pytest.approx((weights * 2 + (full["parameters"] - weights) * 32) / 8 / 1024)


def test_two_processes_with_the_same_recipe_train_it_once(tmp_path: Path, recipe: Make) -> None:
    context = multiprocessing.get_context("spawn")
    made = recipe(distill=DISTILL)
    results = context.Queue()
    processes = [context.Process(target=_count_epochs, args=(made, tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == 4  # two epochs of the teacher, two of the student, whoever trained them


def _count_epochs(recipe: Recipe, root: Path, results: Any) -> None:
    trained: list[dict[str, Any]] = []
    train(recipe, Store(root), on_progress=trained.append)
    results.put(len(trained))
