"""Coefficient and learning-rate laws at points where their value is known."""

from __future__ import annotations

from typing import Any

import pytest

from kdsearch.spec.recipe import Optim, Schedule
from kdsearch.training.schedules import coefficient, learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant"}, [0.5, 0.5, 0.5, 0.5, 0.5]),
        ({"name": "cr_linear"}, [0.5, 0.375, 0.25, 0.125, 0.0]),
        ({"name": "cr_linear", "end": 0.2}, [0.5, 0.4, 0.3, 0.2, 0.1]),
        ({"name": "cr_cosine"}, [0.5, 0.4267767, 0.25, 0.0732233, 0.0]),
        ({"name": "cr_step", "steps": 3}, [0.5, 0.5, 0.25, 0.0, 0.0]),
        ({"name": "cr_step", "steps": 2, "end": 0.5}, [0.5, 0.5, 0.25, 0.25, 0.25]),
        ({"name": "constant", "warmup": 0.5}, [0.0, 0.25, 0.5, 0.5, 0.5]),
        ({"name": "cr_linear", "warmup": 0.5}, [0.0, 0.1875, 0.25, 0.125, 0.0]),
    ],
)
def test_the_coefficient_follows_its_law(schedule: dict[str, Any], expected: list[float]) -> None:
    found = [coefficient(0.5, Schedule(**schedule), t) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine"}, [1, 0.8535534, 0.5, 0.1464466]),
        ({"schedule": "step"}, [1, 1, 0.1, 0.01]),
        ({"schedule": "constant", "warmup": 0.5}, [0, 0.5, 1, 1]),
    ],
)
def test_the_learning_rate_follows_its_law(options: dict[str, Any], expected: list[float]) -> None:
    found = [learning_rate(Optim(learning_rate=1.0, **options), t) for t in (0, 0.25, 0.5, 0.75)]
    assert found == pytest.approx(expected, abs=1e-7)
