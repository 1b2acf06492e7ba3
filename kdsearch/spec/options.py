"""The parts of a study besides recipe and space: objective, sampler, pruner, budget, resources, constraints."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from kdsearch.spec.base import FieldProblem, Flag, Frozen, Real, Whole

Metric = Literal[
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "model_kib",
    "multiply_adds",
    "parameters",
    "train_seconds",
]
EPOCH_METRICS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "train_loss")
"""Metrics that each epoch has; the first objective is one, since the pruner looks at it."""
CONSTRAINED = ("model_kib", "multiply_adds", "parameters", "train_seconds")

SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"startup_trials": 10, "multivariate": True},
    "gp": {"startup_trials": 10},
    "random": {},
    "qmc": {"sequence": "sobol", "scramble": True},
    "grid": {},
}
"""Sampler → its options and their defaults."""

PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {"warmup": None, "startup_trials": 5, "min_trials": 1},
    "percentile": {"warmup": None, "percentile": 50.0, "startup_trials": 5, "min_trials": 1},
    "patient": {"warmup": None, "patience": 3, "min_delta": 0.0},
    "sha": {"min_resource": None, "reduction_factor": 3, "min_early_stopping_rate": 0},
    "hyperband": {"min_resource": None, "max_resource": None, "reduction_factor": 3},
    "wilcoxon": {"p_threshold": 0.1, "startup_steps": 2},
}
"""Pruner → its options and their defaults; None: worked out from the epochs of the recipe, see :func:`for_epochs`."""


class Objective(Frozen):
    """What is searched for."""

    metric: Metric = Field(
        "val_accuracy",
        description="Measured at the end of each epoch: val_*, train_loss, test_*; a second objective may be a size or time.",
    )
    direction: Literal["maximize", "minimize"] = Field(
        "maximize", description="Default: maximize for accuracies, minimize for everything else."
    )

    @model_validator(mode="before")
    @classmethod
    def _direction(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("direction") is None:
            lower_is_better = not str(raw.get("metric", "val_accuracy")).endswith("accuracy")
            return {**raw, "direction": "minimize" if lower_is_better else "maximize"}
        return raw


class _Named(Frozen):
    """A name with options; options of another name are refused, those of this one get their default."""

    @classmethod
    def rows(cls) -> dict[str, dict[str, Any]]:
        return SAMPLERS

    @model_validator(mode="before")
    @classmethod
    def _fill_and_refuse(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or raw["name"] not in cls.rows():
            return raw
        options = cls.rows()[raw["name"]]
        given = {key: value for key, value in raw.items() if value is not None}
        for key in given:
            if key in cls.model_fields and key != "name" and key not in options:
                raise FieldProblem(f"{raw['name']} has no option {key!r}; its options: {', '.join(options) or 'none'}", key)
        return {**options, **given}


class Sampler(_Named):
    """Where the next configuration comes from."""

    name: Literal["tpe", "gp", "random", "qmc", "grid"] = Field(
        "tpe",
        description="tpe (Optuna's default, by the best and the newest 1,000 other trials), gp (few trials, no pruning), random, "
        "qmc (quasi-random), grid (every cell on every seed).",
    )
    startup_trials: Whole | None = Field(None, description="tpe, gp: random configurations before the model is used. Default 10.", ge=1)
    multivariate: Flag | None = Field(None, description="tpe: model parameters jointly. Default true.")
    sequence: Literal["sobol", "halton"] | None = Field(None, description="qmc: which sequence. Default sobol.")
    scramble: Flag | None = Field(None, description="qmc: whether the sequence is scrambled by search_seed. Default true.")


class Pruner(_Named):
    """Which trials are stopped early, by the metric of each epoch on the first seed."""

    name: Literal["none", "median", "percentile", "patient", "sha", "hyperband", "wilcoxon"] = Field(
        "none", description="none, median, percentile, patient, sha (successive halving), hyperband; wilcoxon prunes over seeds."
    )
    warmup: Real | None = Field(
        None,
        description="median, percentile, patient: epochs before anything is pruned; below 1 a share of the epochs. Default: a third.",
        ge=0,
    )
    percentile: Real | None = Field(None, description="percentile: share in percent of trials that goes on. Default 50.", gt=0, lt=100)
    startup_trials: Whole | None = Field(
        None, description="median, percentile: trials finished before anything is pruned. Default 5.", ge=0
    )
    min_trials: Whole | None = Field(None, description="median, percentile: trials to compare with at an epoch. Default 1.", ge=1)
    patience: Whole | None = Field(None, description="patient: epochs without improvement. Default 3.", ge=0)
    min_delta: Real | None = Field(None, description="patient: what counts as improvement, in the metric's unit. Default 0.", ge=0)
    min_resource: Whole | None = Field(
        None, description="sha, hyperband: epochs of the first rung. Default: a third of the epochs for sha, a ninth for hyperband.", ge=1
    )
    max_resource: Whole | None = Field(None, description="hyperband: epochs of the last rung. Default: all.", ge=1)
    reduction_factor: Whole | None = Field(None, description="sha, hyperband: one trial of this many goes on. Default 3.", ge=2)
    min_early_stopping_rate: Whole | None = Field(None, description="sha: rungs left out at the beginning. Default 0.", ge=0)
    p_threshold: Real | None = Field(None, description="wilcoxon: p-value below which a trial is pruned. Default 0.1.", gt=0, lt=1)
    startup_steps: Whole | None = Field(None, description="wilcoxon: seeds before anything is pruned. Default 2.", ge=1)

    @classmethod
    def rows(cls) -> dict[str, dict[str, Any]]:
        return PRUNERS


def for_epochs(pruner: Pruner, epochs: int) -> Pruner:
    """The pruner with its open options worked out for runs of ``epochs`` epochs; ``warmup`` becomes a number of epochs.

    Early ranking favours some schedules, so nothing is pruned in the first third unless the study says otherwise.
    """
    third, ninth = -(-epochs // 3), -(-epochs // 9)
    if pruner.name in ("median", "percentile", "patient"):
        warmup = pruner.warmup
        share = third if warmup is None else -(-int(1e9 * warmup * epochs) // 10**9) if warmup < 1 else warmup
        return pruner.model_copy(update={"warmup": int(share)})
    if pruner.name == "sha":
        return pruner.model_copy(update={"min_resource": pruner.min_resource or third})
    if pruner.name == "hyperband":
        return pruner.model_copy(
            update={
                "min_resource": pruner.min_resource or ninth,
                "max_resource": pruner.max_resource or max(epochs, pruner.min_resource or ninth),
            }
        )
    return pruner


class Budget(Frozen):
    """How much is tried."""

    trials: Whole | None = Field(
        None, description="Configurations per stratum, besides the baselines. Default 100; for a grid: every cell.", ge=1, le=1_000_000
    )
    minutes: Real | None = Field(None, description="Wall-clock minutes after which no trial starts. Default: no limit.", gt=0)


class Resources(Frozen):
    """What one trial takes."""

    cpu: Real = Field(1.0, description="CPU cores per trial; a whole number of them is its thread count.", gt=0)
    gpu: Real = Field(0.0, description="GPUs per trial; a fraction lets trials share one.", ge=0)
    together: int | None = Field(
        None,
        description="Trials of small networks that one process trains at once, at most; they share its resources, and each is faster for "
        "it. Default: as many as is fastest; with an adaptive sampler or a pruner, a third of the budget over all processes.",
        ge=1,
    )


class Constraint(Frozen):
    """A bound that an eligible configuration keeps, written ``metric <= bound``."""

    metric: Literal["model_kib", "multiply_adds", "parameters", "train_seconds"] = Field(description="What is bounded.")
    op: Literal["<=", ">="] = Field("<=", description="At most, or at least.")
    bound: Real = Field(description="KiB, multiply-adds per image, number of parameters, seconds.")

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:.15g}"

    def excess(self, value: float) -> float:
        """How far ``value`` is on the wrong side; feasible at ≤ 0, as Optuna wants it."""
        return value - self.bound if self.op == "<=" else self.bound - value


_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


def parse_constraint(text: Any) -> Any:
    """``"model_kib <= 64"`` → a mapping for :class:`Constraint`. Raises ValueError."""
    if not isinstance(text, str):
        return text
    match = _CONSTRAINT.fullmatch(text)
    if match is None or match[1] not in CONSTRAINED:
        raise ValueError(f"{text!r} is no constraint; write one of {', '.join(CONSTRAINED)}, then <= or >=, then a number: model_kib <= 64")
    try:
        return {"metric": match[1], "op": match[2], "bound": float(match[3])}
    except ValueError:
        raise ValueError(f"{match[3]!r} in {text!r} is not a number") from None


METRICS: tuple[str, ...] = get_args(Metric)
