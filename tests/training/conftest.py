"""One store that the training tests share, and recipes small enough to train in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch.record.store import Store
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe

TINY = {"architecture": "resnet8", "width": 0.25}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A recipe on digits: 180 training images, two epochs; keyword arguments replace whole fields."""

    def make(**fields: Any) -> Recipe:
        raw: dict[str, Any] = {
            "data": {"name": "digits", "validation": 0.4, "train_fraction": 0.2, "augment": "shift"},
            "model": TINY,
            "optim": {"epochs": 2, "batch_size": 32, "learning_rate": 0.05},
        }
        return resolve_recipe({**raw, **fields})

    return make
