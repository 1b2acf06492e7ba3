"""The best configuration as a file: a complete recipe that trains again from nothing, and where it comes from.

``kdsearch train best.yaml --store EMPTY`` trains it, teachers included. The recipe is written out, so that a later change of a
default does not change what the file means; ``provenance:`` is for people, for ``kdsearch train`` (threads, device) and for
:mod:`kdsearch.export.bundle`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.analysis.confirm import Confirmation, Interval, confirmation, identity
from kdsearch.analysis.eligible import keeps_constraints, search_choices
from kdsearch.errors import StoreError
from kdsearch.record.files import storage_errors
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.study import dump_recipe
from kdsearch.spec.words import loss_in_words, precision_in_words
from kdsearch.spec.yaml_reader import dump_yaml

if TYPE_CHECKING:
    from kdsearch.record.run import Run
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Stratum, Study

RUNNERS_UP = 3
"""Configurations named after the best one in a provenance block."""
NOT_CONFIRMED = "not confirmed: the winner of a search is partly luck; `kdsearch confirm` runs it again on fresh seeds"


@dataclass(frozen=True)
class Best:
    """A configuration to hand over: its recipe and where it comes from."""

    stratum: Stratum
    rank: int
    recipe: Recipe
    key: str
    metrics: dict[str, Any]
    """Of this recipe's own run, as the store has them; empty where the store lost it."""
    provenance: dict[str, Any]
    confirmed: Confirmation | None

    @property
    def slug(self) -> str:
        """Name of its file or folder."""
        return self.stratum.slug + (f"-{self.rank}" if self.rank > 1 else "")


def best_of(study: Study, rows: Sequence[TrialRow], store: Store, *, top: int = 1) -> list[Best]:
    """What to hand over: per stratum the ``top`` best, the confirmed choice first where there is one; the whole Pareto front of two
    objectives. Constraints are kept. A stratum where nothing that keeps them has finished gives none."""
    found: list[Best] = []
    for stratum in study.strata_list():
        found += _of_stratum(study, rows, store, stratum, top)
    return found


def _of_stratum(study: Study, rows: Sequence[TrialRow], store: Store, stratum: Stratum, top: int) -> list[Best]:
    confirmed = confirmation(rows, study, stratum.name)
    if confirmed is not None and not confirmed.keys:
        confirmed = None  # cut off before its report seeds: it has a choice, but no number for it yet
    if confirmed is not None and not any(
        keeps_constraints(row, study) for row in rows if row.role == "search" and identity(row.params) == identity(confirmed.chosen.params)
    ):
        confirmed = None
    choices = search_choices(rows, study, stratum.name, top + RUNNERS_UP)
    chosen = "" if confirmed is None else identity(confirmed.chosen.params)
    others = [choice for choice in choices if identity(choice.params) != chosen]
    found: list[Best] = []
    if confirmed is not None:
        seed, key, role = _run_of(confirmed)
        about = {
            "trial": confirmed.chosen.number,
            "params": confirmed.chosen.params,
            "runners_up": _runners_up(others),
            **_confirmed_values(confirmed, role),
        }
        found.append(_best(study, rows, store, stratum, 1, seed, key, about, confirmed))
    front = len(study.objectives()) > 1
    wanted = others if front else others[: top - len(found)]
    for place, choice in enumerate(wanted):
        seed = choice.seeds[0]
        about = {
            "trial": choice.number,
            "params": choice.params,
            "value": choice.mean,
            "split": _split(study.objective.metric),
            "n": choice.n,
            "values": _values_of(rows, stratum.name, choice.number, choice.seeds),
            "interval": None,
            "runners_up": _runners_up(others[place + 1 :]),
        }
        found.append(_best(study, rows, store, stratum, len(found) + 1, seed, choice.keys[str(seed)], about, None))
    return found


def _run_of(confirmed: Confirmation) -> tuple[int, str, str]:
    """The run that is handed over: of the network trained on everything where there is one, else of the first report seed."""
    keys, role = (confirmed.final_keys, "final") if confirmed.final_keys else (confirmed.keys, "confirm")
    seed = min(keys, key=int)
    return int(seed), keys[seed], role


def _confirmed_values(confirmed: Confirmation, role: str) -> dict[str, Any]:
    values = {
        "value": None if confirmed.test is None else confirmed.test.mean,
        "metric": confirmed.reported,
        "split": "test, on fresh seeds that had no part in the choice",
        "n": 0 if confirmed.test is None else confirmed.test.n,
        "interval": _interval(confirmed.test),
        "search_value": _finite(confirmed.chosen.search_value),
        "confirmed_validation": None if confirmed.validation is None else confirmed.validation.mean,
        "shrinkage": _finite(confirmed.shrinkage),
        "baselines": {name: _interval(found) for name, found in confirmed.baselines.items()},
        "differences": {name: _interval(found) for name, found in confirmed.differences.items()},
    }
    if role == "final":
        values["trained_on"] = "all training data, validation images included"
        values["final"] = {"metric": confirmed.reported, "values": confirmed.final}
    return values


def _interval(found: Interval | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "mean": found.mean,
        "low": _finite(found.low),
        "high": _finite(found.high),
        "n": found.n,
        "confidence": found.confidence,
        "method": "Student's t over seeds",
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _split(metric: str) -> str:
    return {"val": "validation", "test": "test"}.get(metric.partition("_")[0], "train")


def _values_of(rows: Sequence[TrialRow], stratum: str, number: int, seeds: Sequence[int]) -> dict[str, float]:
    """Value of each seed; of a grid the seeds are trials of their own."""
    named = next((row for row in rows if row.role == "search" and row.stratum == stratum and row.number == number), None)
    if named is None:
        return {}
    mine = [row for row in rows if row.role == "search" and row.stratum == stratum and identity(row.params) == identity(named.params)]
    values = {seed: value for row in mine for seed, value in row.values.items()}
    return {str(seed): values[str(seed)] for seed in seeds if str(seed) in values}


def _runners_up(choices: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"trial": c.number, "value": c.mean, "n": c.n, "params": c.params} for c in choices[:RUNNERS_UP]]


def _best(
    study: Study,
    rows: Sequence[TrialRow],
    store: Store,
    stratum: Stratum,
    rank: int,
    seed: int,
    key: str,
    about: Mapping[str, Any],
    confirmed: Confirmation | None,
) -> Best:
    metrics: dict[str, Any] = {}
    try:
        entry = store.entry(key)
        recipe, metrics = _with_places(Recipe.model_validate(entry.recipe), study, about["params"], stratum, seed), entry.metrics
    except StoreError:
        recipe = study.recipe_for(about["params"], stratum, seed)
    environment = dict(metrics.get("environment", {}))
    provenance: dict[str, Any] = {
        "study": study.name,
        "stratum": stratum.name or None,
        "key": key,
        "seed": seed,
        "metric": study.objective.metric,
        **about,
        "params": dict(about["params"]),
        "precision": precision_in_words(recipe),
        "loss": loss_in_words(recipe.distill),
        "own_metrics": metrics.get("final", {}),
        "threads": environment.pop("threads", 1),
        "device": environment.pop("device", "cpu"),
        "environment": environment,
        "constraints": [str(constraint) for constraint in study.constraints],
        "warnings": _warnings(study, rows, stratum, about, metrics, confirmed),
    }
    return Best(stratum, rank, recipe, key, metrics, _plain(provenance), confirmed)


def _with_places(recipe: Recipe, study: Study, params: Mapping[str, Any], stratum: Stratum, seed: int) -> Recipe:
    """The stored recipe, with data folders as the study names them now: they are outside the key, so another study's may be stored."""
    named = study.recipe_for(params, stratum, seed).data
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": named.root, "workers": named.workers})})


def _warnings(
    study: Study, rows: Sequence[TrialRow], stratum: Stratum, about: Mapping[str, Any], metrics: Mapping[str, Any], confirmed: Any
) -> list[str]:
    texts: list[str] = [] if confirmed is not None else [NOT_CONFIRMED]
    if confirmed is None and about["n"] < 2:
        texts.append("one seed only: nothing is known of the noise between seeds")
    if study.objective.metric.startswith("test"):
        texts.append("the search looked at test data, so its values are too good")
    if not metrics:
        texts.append("the store no longer has this run; `kdsearch train` makes it again")
    texts += list(metrics.get("warnings", []))
    for row in rows:
        if row.number == about["trial"] and row.role == "search" and row.stratum == stratum.name:
            texts += row.warnings
    return list(dict.fromkeys(texts))


def best_yaml(found: Best) -> str:
    """The file's text."""
    about = found.provenance
    value = "" if about.get("value") is None else f", {about['metric']} {about['value']:.2f} ({about['split']}; n={about['n']})"
    stratum = f" [{about['stratum']}]" if about["stratum"] else ""
    head = (
        f"# Best configuration of the study {about['study']}{stratum}{value}.\n"
        f"# Train it again, teachers included: kdsearch train THIS_FILE --store EMPTY_FOLDER\n"
        f"# The same metrics on the same machine, versions and {about['threads']} thread(s); elsewhere within noise.\n"
    )
    return head + dump_yaml({**dump_recipe(found.recipe), "provenance": about})


def write_best(study: Study, run: Run, store: Store | str | Path, rows: Sequence[TrialRow]) -> list[Path]:
    """Write ``best/<stratum>.yaml`` into the run's folder, and ``best.yaml`` where there is one stratum; gives the paths.

    Strata where nothing eligible has finished get none; their file of before goes.
    """
    held = store if isinstance(store, Store) else Store(store)
    strata = study.strata_list()
    written: list[Path] = []
    found = [one for one in best_of(study, rows, held) if one.rank == 1]
    with storage_errors(run.path):
        run.best.mkdir(parents=True, exist_ok=True)
        for one in found:
            targets = [run.best / f"{one.slug}.yaml"] + ([run.path / "best.yaml"] if len(strata) == 1 else [])
            for target in targets:
                replace_text(target, best_yaml(one))
                written.append(target)
        for stratum in strata:
            if stratum.name not in {one.stratum.name for one in found}:
                (run.best / f"{stratum.slug}.yaml").unlink(missing_ok=True)
                if len(strata) == 1:
                    (run.path / "best.yaml").unlink(missing_ok=True)
    return written


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    made = path.with_name(f".{path.name}.new")
    made.write_text(text, encoding="utf-8")
    made.replace(path)


def _plain(value: Any) -> Any:
    """As JSON and YAML can hold it: None in place of NaN, lists in place of tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _finite(value)
    return value if isinstance(value, str | int | bool | None) else json.loads(json.dumps(value, default=str))
