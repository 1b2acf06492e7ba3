"""Synthetic studies whose truth is known: rows as a run would leave them, without training anything.

The surface: accuracy falls off from a ridge on which the best teacher width rises with the temperature (in logarithms of both), so
temperature and width interact; noise has a known SD, and each seed may be lucky as a whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna

from kdsearch.record.trials import TrialRow
from kdsearch.spec.study import Study

TEMPERATURES = [1, 2, 5, 10, 20]
WIDTHS = [1, 1.5, 2, 3, 4]
RECIPE: dict[str, Any] = {
    "data": {"name": "digits"},
    "model": {"architecture": "resnet8"},
    "precision": {"weights": {"quantizer": "shin", "bits": 2}},
    "distill": {"teachers": [{"model": {"architecture": "resnet8", "width": "$width"}}], "temperature": "$temperature", "coefficient": 0.7},
}


def study(name: str = "planted", **fields: Any) -> Study:
    """A grid of temperature × teacher width on five seeds, unless ``fields`` say otherwise."""
    data: dict[str, Any] = {
        "name": name,
        "recipe": RECIPE,
        "space": {
            "temperature": {"choices": TEMPERATURES, "ordered": True},
            "width": {"choices": WIDTHS, "ordered": True},
        },
        "baselines": {"no_kd": {"distill": None}},
        "sampler": {"name": "grid"},
        "pruner": {"name": "none"},
        "seeds": [0, 1, 2, 3, 4],
    }
    return Study.model_validate(data | fields)


def adaptive(name: str = "explored", trials: int = 80, **fields: Any) -> Study:
    """An adaptive study over continuous temperature and coefficient, teacher width and schedule."""
    recipe = {**RECIPE, "distill": {**RECIPE["distill"], "coefficient": "$coefficient", "schedule": "$schedule"}}
    space = {
        "temperature": {"low": 1, "high": 20, "log": True},
        "width": {"choices": WIDTHS, "ordered": True},
        "coefficient": {"low": 0.1, "high": 1},
        "schedule": {"choices": ["constant", "cr_linear", "cr_cosine"]},
    }
    sampler = {"recipe": recipe, "space": space, "sampler": {"name": "tpe"}, "pruner": {"name": "median"}}
    return study(name, **({**sampler, "budget": {"trials": trials}, "seeds": [0]} | fields))


def best_width(temperature: float) -> float:
    """The planted ridge: 1 at τ = 1, 4 at τ = 20."""
    return math.exp(math.log(4) * math.log(temperature) / math.log(20))


def surface(temperature: float, width: float) -> float:
    """True accuracy in percent."""
    off = math.log(width / best_width(temperature))
    return 90.0 - 2.2 * off**2 - 0.25 * (math.log(temperature) - 1.6) ** 2


def row(
    number: int,
    params: dict[str, Any],
    values: dict[int, float],
    *,
    state: str = "COMPLETE",
    role: str = "search",
    baseline: str | None = None,
    stratum: str = "",
    epochs: int = 12,
    metrics: dict[str, float] | None = None,
    rng: np.random.Generator | None = None,
    last: float | None = None,
    name: str = "planted",
) -> TrialRow:
    """One trial's row: a saturating learning curve to its final value, cut where it was pruned."""
    rng = rng or np.random.default_rng(number)
    final = last if last is not None else next(iter(values.values()), 80.0)
    curve = [[e, final - 25 * math.exp(-4 * e / 12) + float(rng.normal(0, 0.3)) * (e < 12)] for e in range(1, epochs + 1)]
    if curve and epochs == 12:
        curve[-1][1] = final
    measured = {str(s): {"train_seconds": 20.0 + 4 * float(params.get("width", 1)), **(metrics or {})} for s in values}
    keys = {str(s): f"{abs(hash((tuple(params.items()), s, baseline))):064x}"[:64] for s in values}
    return TrialRow(
        number=number,
        study=name,
        stratum=stratum,
        role=role,
        baseline=baseline,
        state=state,
        value=float(np.mean(list(values.values()))) if values else None,
        params=params,
        seeds=list(values),
        values={str(s): v for s, v in values.items()},
        epochs=epochs,
        intermediate=curve,
        key=next(iter(keys.values()), None),
        keys=keys,
        seconds=sum(m["train_seconds"] for m in measured.values()) or None,
        metrics=measured,
    )


def grid_rows(
    of: Study, *, sd: float = 0.3, block_sd: float = 0.0, seed: int = 0, stratum: str = "", shift: float = 0.0, baseline: float = 88.5
) -> list[TrialRow]:
    """Every cell of a grid study on every seed, and its baseline."""
    rng = np.random.default_rng(seed)
    lucky = {s: float(rng.normal(0, block_sd)) if block_sd else 0.0 for s in of.seeds}
    chosen = of.stratum(stratum)
    rows = []
    for params in of.grid(chosen):
        for s in of.seeds:
            t, w = float(params["temperature"]), float(params["width"])
            value = surface(t, w) + shift + lucky[s] + float(rng.normal(0, sd))
            metrics = {"teacher_accuracy": 91 + 1.5 * math.log(w) + lucky[s] / 2, "teacher_entropy": 0.1 + 0.6 * math.log(t) - 0.05 * w}
            rows.append(row(len(rows), params, {s: value}, metrics=metrics, stratum=stratum, rng=rng, name=of.name))
    plain = {s: baseline + lucky[s] + float(rng.normal(0, sd)) for s in of.seeds}
    rows.append(row(0, {}, plain, role="baseline", baseline="no_kd", stratum=stratum, rng=rng, name=of.name))
    return rows


def tpe_rows(of: Study, *, sd: float = 0.3, seed: int = 0) -> list[TrialRow]:
    """The surface as Optuna's TPE searches it with its median pruner, on learning curves that rise to the final value."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(seed)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
    search = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner(8, 4))
    rows: list[TrialRow] = []
    for number in range(of.budget.trials or 60):
        trial = search.ask()
        t, w = trial.suggest_float("temperature", 1, 20, log=True), float(trial.suggest_categorical("width", WIDTHS))
        c = trial.suggest_float("coefficient", 0.1, 1)
        trial.suggest_categorical("schedule", ["constant", "cr_linear", "cr_cosine"])
        final = surface(t, w) - 1.5 * (c - 0.7) ** 2 + float(rng.normal(0, sd))
        found = row(number, trial.params, {0: final}, rng=rng, name=of.name, metrics={"teacher_accuracy": 91 + 1.5 * math.log(w)})
        for epoch, value in found.intermediate[:-1]:
            trial.report(value, int(epoch))
            if trial.should_prune():
                search.tell(trial, state=optuna.trial.TrialState.PRUNED)
                cut = found.intermediate[: int(epoch)]
                found = row(number, trial.params, {}, state="PRUNED", epochs=0, rng=rng, name=of.name)
                found.intermediate, found.epochs, found.value = cut, int(epoch), value
                break
        else:
            search.tell(trial, final)
        rows.append(found)
    rows.append(row(0, {}, {0: 88.5}, role="baseline", baseline="no_kd", rng=rng, name=of.name))
    return rows


def adaptive_rows(of: Study, *, sd: float = 0.3, seed: int = 0, prune: bool = True, trials: int | None = None) -> list[TrialRow]:
    """What a search leaves that comes to like the ridge: later trials closer to it, the worse half of them pruned."""
    rng = np.random.default_rng(seed)
    count = trials or of.budget.trials or 80
    rows: list[TrialRow] = []
    seen: list[float] = []
    for number in range(count):
        t = float(np.exp(rng.uniform(0, math.log(20))))
        widths = np.array(WIDTHS)
        weight = np.exp(-(number / count) * 6 * np.log(widths / best_width(t)) ** 2)
        w = float(rng.choice(widths, p=weight / weight.sum()))
        c, schedule = float(rng.uniform(0.1, 1)), str(rng.choice(["constant", "cr_linear", "cr_cosine"]))
        params = {"temperature": t, "width": int(w) if w.is_integer() else w, "coefficient": c, "schedule": schedule}
        truth = surface(t, w) - 1.5 * (c - 0.7) ** 2 + (0.2 if schedule == "cr_cosine" else 0.0)
        value = truth + float(rng.normal(0, sd))
        cut = prune and number > 10 and truth + float(rng.normal(0, sd)) < float(np.median(seen))
        metrics = {
            "teacher_accuracy": 91 + 1.5 * math.log(w),
            "teacher_entropy": 0.1 + 0.6 * math.log(t) - 0.05 * w,
            "model_kib": 20.0,
        }
        if number % 37 == 36:
            failed = row(number, params, {}, state="FAIL", epochs=2, rng=rng, name=of.name)
            failed.reason = "loss is not finite at epoch 3"
            rows.append(failed)
        elif cut:
            rows.append(row(number, params, {}, state="PRUNED", epochs=int(rng.integers(4, 10)), last=value, rng=rng, name=of.name))
        else:
            values = {s: truth + float(rng.normal(0, sd)) for s in of.seeds}
            rows.append(row(number, params, values, metrics=metrics, rng=rng, name=of.name))
        seen.append(truth)
    plain = {s: 88.5 + float(rng.normal(0, sd)) for s in of.seeds}
    rows.append(row(0, {}, plain, role="baseline", baseline="no_kd", rng=rng, name=of.name))
    return rows
