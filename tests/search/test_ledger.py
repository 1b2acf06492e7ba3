"""What the ledger asks, records and refuses, seen through studies run without Ray on the tabulated objective."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdsearch.errors import RunLocked, SpecError, UsageError
from kdsearch.record.run import Run
from kdsearch.record.trials import baselines_study, read_trials, stratum_study
from kdsearch.search.engine import run_study
from kdsearch.search.ledger import Ledger
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.search.pruners import PRUNERS
from kdsearch.search.samplers import SAMPLERS
from kdsearch.spec.options import PRUNERS as PRUNER_OPTIONS
from kdsearch.spec.options import SAMPLERS as SAMPLER_OPTIONS
from tests.search.conftest import GRID, STUDY, Go, make_study, states
from tests.search.drive import SESSION
from tests.search.tabulated import trained


def test_every_sampler_and_pruner_of_a_study_file_has_a_builder() -> None:
    assert set(SAMPLERS) == set(SAMPLER_OPTIONS)
    assert set(PRUNERS) == set(PRUNER_OPTIONS)


CONDITIONAL = """
name: conditional
recipe:
  data: {name: digits}
  model: {architecture: resnet8, width: $width}
  precision: {weights: $weights}
  optim: {epochs: 4, learning_rate: $rate, batch_size: $batch}
space:
  width: {choices: [1, 1.5, 2], ordered: true}
  weights: {choices: {shin: {quantizer: shin, bits: 2, step_policy: $policy}, lsq: {quantizer: lsq, bits: 2}, twn: {quantizer: twn}}}
  policy: {choices: [once, every_step]}
  rate: {low: 0.001, high: 1, log: true}
  batch: {low: 32, high: 128, step: 32, int: true}
budget: {trials: 16}
"""


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_a_sampler_fills_conditional_spaces_and_repeats_itself_for_the_same_seed(go: Go, name: str) -> None:
    overrides = [f"sampler={name}"] + ([f"sampler={{name: {name}, startup_trials: 6}}"] if name in ("tpe", "gp") else [])
    if name == "gp":  # fits a model for each trial
        overrides.append("budget.trials=8")
    outcome, rows = go(*overrides, text=CONDITIONAL)
    assert outcome.exit_code == 0
    for row in rows:
        assert row.state == "COMPLETE"
        assert row.params["width"] in (1, 1.5, 2)
        assert row.params["weights"] in ("shin", "lsq", "twn")
        assert ("policy" in row.params) == (row.params["weights"] == "shin")
        assert 0.001 <= row.params["rate"] <= 1
        assert row.params["batch"] in (32, 64, 96, 128)
    assert len({str(row.params) for row in rows}) > len(rows) / 2
    _, again = go(*overrides, text=CONDITIONAL, out="again")
    assert [row.params for row in again] == [row.params for row in rows]
    _, other = go(*overrides, "search_seed=1", text=CONDITIONAL, out="other")
    assert [row.params for row in other] != [row.params for row in rows]


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_stops_no_trial_in_the_first_third_and_leaves_whole_curves(go: Go, name: str, tmp_path: Path) -> None:
    outcome, rows = go(f"pruner={name}", "budget.trials=14", "seeds=[0,1,2,3,4,5]" if name == "wilcoxon" else "seeds=[0]")
    assert outcome.exit_code == 0
    count = states(rows)
    assert count["COMPLETE"] + count["PRUNED"] == 28
    assert states(rows, "baseline")["COMPLETE"] == (12 if name == "wilcoxon" else 2)
    if name == "none":
        assert count["PRUNED"] == 0
    elif name != "patient":  # the tabulated curves always rise
        assert count["PRUNED"] > 0
    assert not list((tmp_path / "run" / "store" / "checkpoints").glob("*/*"))  # nobody goes on from those of pruned trials
    for row in rows:
        assert [epoch for epoch, _ in row.intermediate] == list(range(1, row.epochs + 1))
        if row.state == "COMPLETE":
            assert row.epochs == 6
            assert row.value == pytest.approx(sum(row.values.values()) / len(row.values))
        elif name == "wilcoxon":
            assert 4 <= len(row.seeds) < 6  # fewer cannot be significant
        elif name != "hyperband":  # whose first rung is a ninth
            assert row.epochs >= 2


def test_a_resumed_search_asks_what_an_uninterrupted_one_would_have(go: Go) -> None:
    _, whole = go("budget.trials=12", out="whole")
    go("budget.trials=5", out="parts")
    _, parts = go("budget.trials=12", out="parts")
    told = [[(row.study, row.number, row.params, row.state, row.value) for row in rows] for rows in (whole, parts)]
    assert told[0] == told[1]


def test_what_was_interrupted_is_asked_first_by_this_driver_and_the_next(tmp_path: Path) -> None:
    study = make_study(tmp_path, CONDITIONAL)
    run = Run(tmp_path / "run").create(study)
    ledger, asked = Ledger(study, run), 3
    before = [_params(ledger) for _ in range(asked)]
    for end in ("interrupted, same driver", "interrupted, next driver", "killed, next driver"):
        running = ledger.searches[0].history.running
        assert [trial.user_attrs["params"] for trial in running.values()] == before
        if end.startswith("interrupted"):
            ledger.interrupt()
            assert not running
        if end.endswith("next driver"):
            ledger = Ledger(study, run)
        asked += 1
        after = [_params(ledger) for _ in range(asked)]
        assert after[:-1] == before
        assert after[-1] not in before
        before = after


def _params(ledger: Ledger) -> dict[str, Any]:
    given = ledger.next()
    assert given is not None
    return dict(given.params)


@pytest.mark.parametrize("text", [STUDY, CONDITIONAL], ids=["plain", "conditional"])
def test_no_trial_of_a_long_search_is_preceded_by_a_look_through_all(go: Go, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listings: list[int] = []
    listed = optuna.storages.JournalStorage.get_all_trials
    monkeypatch.setattr(optuna.storages.JournalStorage, "get_all_trials", lambda *a, **k: listings.append(0) or listed(*a, **k))
    options = ("sampler={name: tpe, startup_trials: 4}", "pruner={name: median, startup_trials: 3}")
    counts = []
    for trials in (8, 20):
        listings.clear()
        go(*options, f"budget.trials={trials}", text=text, out=str(trials))
        counts.append(len(listings))
    assert counts[0] == counts[1]


def test_a_grid_runs_every_cell_on_every_seed_once_and_appended_seeds_add_theirs(go: Go, tmp_path: Path) -> None:
    outcome, rows = go(text=GRID)
    assert outcome.exit_code == 0
    cells = [(row.params["width"], row.params["temperature"], row.seeds[0]) for row in rows if row.role == "search"]
    assert sorted(cells) == sorted((w, t, s) for w in (1, 2) for t in (1, 5, 10) for s in (0, 1))
    _, more = go("seeds=[0,1,2]", text=GRID)
    assert len([row for row in more if row.role == "search"]) == 18
    assert [row for row in more if row.role == "baseline" and row.seeds == [2]]
    assert len(trained(tmp_path / "run" / "store")) == len(set(trained(tmp_path / "run" / "store")))


def test_seeds_appended_to_an_adaptive_study_run_for_finished_configurations_too(go: Go) -> None:
    _, before = go("budget.trials=6")
    outcome, after = go("budget.trials=7", "seeds=[0,1]")
    assert outcome.exit_code == 0
    complete = [row for row in after if row.state == "COMPLETE" and row.role == "search"]
    assert all(row.seeds == [0, 1] for row in complete)
    assert all(row.value == pytest.approx((row.values["0"] + row.values["1"]) / 2) for row in complete)
    old = {(row.study, row.number): row for row in before}
    for row in after:
        if (row.study, row.number) in old and row.role == "search":
            assert row.values.get("0") == old[row.study, row.number].values.get("0")
            assert row.intermediate == old[row.study, row.number].intermediate
    assert [row.seeds for row in after if row.role == "baseline"] == [[0], [0], [1], [1]]


def test_strata_take_turns_and_baselines_come_first(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    ledger = Ledger(study, Run(tmp_path / "run").create(study))
    labels = [assignment.label for assignment in iter(ledger.next, None)][:8]
    assert labels == ["baselines", "baselines", *["weights=1", "weights=2"] * 3]


def test_a_repeated_configuration_says_that_it_is_no_evidence_of_its_own(go: Go) -> None:
    small = STUDY.replace("temperature: {low: 1, high: 20, log: true}", "temperature: {choices: [1, 5]}").replace(
        "coefficient: {low: 0.1, high: 1}", "coefficient: {choices: [0.5, 0.7]}"
    )
    _, rows = go("pruner=none", text=small)
    repeated = [row for row in rows if any("same configuration as trial" in text for text in row.warnings)]
    distinct = {(row.stratum, str(row.params)) for row in rows if row.role == "search"}
    assert len(repeated) == 20 - len(distinct) > 0


def test_two_objectives_are_both_told_and_curves_kept(go: Go, tmp_path: Path) -> None:
    two = STUDY.replace("pruner: {name: median, startup_trials: 3}", "objective: [{metric: val_accuracy}, {metric: model_kib}]")
    outcome, rows = go("budget.trials=4", text=two)
    assert outcome.exit_code == 0
    assert all(row.epochs == 6 for row in rows)
    storage = Run(tmp_path / "run").read_storage()
    found = optuna.load_study(study_name=stratum_study("tab", "weights=1"), storage=storage)
    assert all(len(trial.values) == 2 and trial.values[1] == 10 for trial in found.trials)


def test_a_constraint_reaches_the_sampler(go: Go, tmp_path: Path) -> None:
    go("budget.trials=3", text=STUDY + "constraints: ['model_kib <= 5']\n")
    storage = Run(tmp_path / "run").read_storage()
    found = optuna.load_study(study_name=stratum_study("tab", "weights=1"), storage=storage)
    complete = found.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert complete
    assert all(trial.constraints == {"model_kib <= 5": 5.0} for trial in complete)


FAILS = """
name: fails
recipe: {data: {name: digits}, model: {architecture: resnet8, width: $width}, optim: {epochs: 3, learning_rate: RATE}}
space: {width: {low: 0.5, high: 2}}
sampler: random
budget: {trials: 50}
"""


@pytest.mark.parametrize(
    ("rate", "reason"), [("1.0e+9", "the training loss is nan"), ("1.0e+8", "val_accuracy is nan"), ("1.0e+7", "a defect")]
)
def test_a_study_in_which_everything_fails_stops_early_with_the_reason(go: Go, rate: str, reason: str) -> None:
    outcome, rows = go(text=FAILS.replace("RATE", rate))
    assert outcome.exit_code == 1
    assert reason in str(outcome.reason)
    assert states(rows) == {"FAIL": 5}
    assert all(reason in str(row.reason) for row in rows)


def test_a_failed_prerequisite_fails_the_trials_that_need_it_and_no_others(go: Go, tmp_path: Path) -> None:
    text = GRID.replace(
        "{model: {architecture: resnet8, width: $width}}", "{model: {architecture: resnet8}, optim: {learning_rate: $width}}"
    )
    outcome, rows = go(text=text.replace("width: {choices: [1, 2], ordered: true}", "width: {choices: [0.1, 1.0e+9]}"))
    assert outcome.exit_code == 3
    failed = [row for row in rows if row.state == "FAIL"]
    assert {row.params["width"] for row in failed} == {1e9}
    assert all(str(row.reason).startswith("prerequisite failed: epoch 2") for row in failed)
    assert states(rows) == {"COMPLETE": 6, "FAIL": 6}
    assert all(math.isfinite(value) for row in rows for value in row.values.values())


def test_a_spent_budget_of_minutes_hands_out_nothing_more(go: Go) -> None:
    outcome, rows = go("budget.minutes=0.000001")
    assert outcome.exit_code == 0
    assert rows == []


def test_another_study_in_the_same_folder_is_refused_and_shows_the_difference(go: Go) -> None:
    go("budget.trials=1")
    with pytest.raises(SpecError, match=r"pruner.*median.*none"):
        go("budget.trials=1", "pruner=none")


def test_a_locked_run_refuses_a_second_driver_in_the_same_process(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run = Run(tmp_path / "run").create(study)
    with run.locked(), pytest.raises(RunLocked, match="process"):
        run_study(study, Run(tmp_path / "run"), tmp_path / "store", RunOptions(inline=True, session=SESSION), Progress())


def test_a_session_that_cannot_be_loaded_is_a_failure_with_its_name(go: Go) -> None:
    outcome, _ = go(text=FAILS.replace("RATE", "0.1"), session="tests.search.tabulated:Missing")
    assert outcome.exit_code == 1
    assert "tests.search.tabulated:Missing" in str(outcome.reason)


def test_the_record_s_studies_are_named_after_study_and_stratum(go: Go, tmp_path: Path) -> None:
    go("budget.trials=1")
    names: set[Any] = set(optuna.get_all_study_names(Run(tmp_path / "run").read_storage()))
    assert names == {"tab | weights=1", "tab | weights=2", baselines_study("tab")}
    assert {row.stratum for row in read_trials(Run(tmp_path / "run"))} == {"weights=1", "weights=2"}
    assert issubclass(SpecError, UsageError)
