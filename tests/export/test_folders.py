"""From a folder of pictures, in memory or decoded as they are read, to a confirmed and exported student."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kdsearch
from kdsearch.api import Study
from kdsearch.errors import DataError
from kdsearch.export.bundle import FILES
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.study import load_recipe
from kdsearch.training.data import load
from tests.export.conftest import STUDY, files

COUNTS = {"train": 12, "val": 4, "test": 5}
"""Pictures of each class."""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dark and bright pictures of 12×12 with folders for validation and test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, draw = tmp_path / "pictures", np.random.default_rng(0)
    for part, count in COUNTS.items():
        for name, low in (("dark", 0), ("light", 120)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                array = draw.integers(low, low + 130, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(array).save(root / part / name / f"{index:02d}.png")
    return root


def _searched(folder: Path, **data: Any) -> Study:
    study = yaml.safe_load(STUDY)
    study["recipe"]["data"] = {"name": "imagefolder", "root": str(folder / "pictures"), **data}
    study["budget"]["trials"] = 2
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    made = Study(folder / "tiny.yaml", output=folder / "runs", store=folder / "store")
    assert made.run(inline=True, quiet=True).exit_code == 0
    return made


@pytest.mark.slow
@pytest.mark.parametrize("data", [{}, {"streamed": True, "image_size": 10, "workers": 0}], ids=["in-memory", "streamed"])
def test_a_folder_is_confirmed_on_all_its_pictures_and_exported(pictures: Path, tmp_path: Path, data: dict[str, Any]) -> None:
    study = _searched(tmp_path, **data)
    found, outcome = study.confirm(top=1, seeds=2, with_validation=True, inline=True, quiet=True)
    assert outcome.exit_code == 0
    assert len(found[0].final) == 2

    done = study.export(tmp_path / "out")
    assert files(tmp_path / "out") == set(FILES)
    assert {agreement.images for agreement in done[0].agreements.values()} == {2 * COUNTS["test"]}
    recipe, provenance = load_recipe(tmp_path / "out" / "best.yaml")
    assert provenance["trained_on"] == "all training data, validation images included"
    whole = load(recipe.data)
    assert (len(whole.train), whole.validation) == (2 * (COUNTS["train"] + COUNTS["val"]), None)
    assert whole.train.labels.bincount().tolist() == [COUNTS["train"] + COUNTS["val"]] * 2
    teacher = Recipe.model_validate(Store(study.store_root).entry(provenance["key"]).recipe).children()["teachers.0"]
    apart = load(teacher.data)
    assert apart.validation is not None
    assert (len(apart.train), len(apart.validation)) == (2 * COUNTS["train"], 2 * COUNTS["val"])
    assert (apart.mean, apart.std) == (whole.mean, whole.std)  # so that both see the same picture
    assert kdsearch.load_exported(tmp_path / "out")(torch.zeros((3, *whole.shape), dtype=torch.uint8)).shape == (3, 2)


def test_a_folder_without_test_pictures_is_told_before_anything_is_trained(pictures: Path, tmp_path: Path) -> None:
    shutil.rmtree(pictures / "test")
    study = _searched(tmp_path)
    before = len(study.trials())
    with pytest.raises(DataError, match="has no test/ folder"):
        study.confirm(top=1, seeds=2, inline=True, quiet=True)
    assert len(study.trials()) == before
