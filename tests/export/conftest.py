"""Students to export: quantized by each quantizer without training, and a small study that was really run and confirmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch.api import Study
from kdsearch.export.student import Signature, Student, take_apart
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import load
from kdsearch.training.networks import initial

MakeStudent = Callable[..., Student]

STUDY = """
name: tiny
recipe:
  data: {name: digits, validation: 0.3, train_fraction: 0.5}
  model: {architecture: resnet8, width: 0.5}
  optim: {epochs: 2, learning_rate: 0.05}
  precision: {weights: {quantizer: shin, bits: 2}}
  distill: {teachers: [{model: {architecture: resnet8, width: $width}}], temperature: $temperature}
space:
  width: {choices: [0.25, 0.5], ordered: true}
  temperature: {low: 1, high: 10, log: true}
baselines: {no_kd: {distill: null}}
sampler: {name: random}
budget: {trials: 3}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_student() -> MakeStudent:
    """A network with batch statistics of real pictures and quantizers started on its weights."""

    def make(
        weights: dict[str, Any] | None = None, activations: dict[str, Any] | None = None, architecture: str = "resnet8", **model: Any
    ) -> Student:
        recipe = Recipe.model_validate(
            {
                "model": {"architecture": architecture, **model},
                "precision": {"weights": weights, "activations": activations},
            }
        )
        dataset = load(recipe.data)
        network = initial(recipe, dataset, None).train()
        with torch.no_grad():
            for _ in range(3):
                network(dataset.normalise(dataset.train.images[:256]))
        signature = Signature(*dataset.shape, dataset.classes, dataset.mean, dataset.std)
        return take_apart(recipe, network.eval(), signature, dataset)

    return make


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose search has ended, unconfirmed."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.yaml").write_text(STUDY)
    study = Study(folder / "tiny.yaml", output=folder / "runs", store=folder / "store")
    assert study.run(inline=True, quiet=True).exit_code == 0
    return study


@pytest.fixture(scope="session")
def confirmed(searched: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same, its two best confirmed on two seeds, in a run of its own."""
    import shutil

    folder = tmp_path_factory.mktemp("confirmed")
    shutil.copytree(searched.folder, folder / "runs" / "tiny")
    study = Study(folder / "runs" / "tiny", store=searched.store_root)
    found, outcome = study.confirm(top=2, seeds=2, inline=True, quiet=True)
    assert outcome.exit_code == 0
    assert len(found) == 1
    return study


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
