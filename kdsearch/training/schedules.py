"""Learning rate and distillation coefficient as functions of the fraction of training done, set before every step."""

from __future__ import annotations

import math
from collections.abc import Callable

from kdsearch.spec.recipe import Optim, Schedule


def _cosine(t: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * t))


def _warmup(t: float, over: float) -> float:
    return min(1.0, t / over) if over > 0 else 1.0


LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
    "linear": lambda t: 1.0 - t,
    "constant": lambda t: 1.0,
}


def learning_rate(optim: Optim, t: float) -> float:
    """Learning rate at fraction ``t`` (0 at the first step, below 1 at the last)."""
    return optim.learning_rate * _warmup(t, optim.warmup) * LEARNING_RATES[optim.schedule](t)


def shape(schedule: Schedule, t: float) -> float:
    """Share of the coefficient in force at fraction ``t`` of training (0 to 1).

    ``constant``: 1. Coefficient reducing (Shin et al. §4.5 gives no law; these are ours) from 1 to ``end``: ``cr_linear``,
    ``cr_cosine``, and ``cr_step`` in ``steps`` equal spans, the first at 1 and the last at ``end``. A warm-up multiplies.
    """
    left = {
        "constant": 1.0,
        "cr_linear": 1.0 - t,
        "cr_cosine": _cosine(t),
        "cr_step": 1.0 - min(math.floor(t * schedule.steps), schedule.steps - 1) / (schedule.steps - 1),
    }[schedule.name]
    reduced = 1.0 if schedule.name == "constant" else schedule.end + (1.0 - schedule.end) * left
    return _warmup(t, schedule.warmup) * reduced


def coefficient(start: float, schedule: Schedule, t: float) -> float:
    """λ at fraction ``t`` of training: ``start`` times the schedule's shape."""
    return start * shape(schedule, t)
