"""Confirmation through the engine: fresh seeds, two rounds, apart from the search, and going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdsearch.analysis.confirm import CHOICE_SEEDS, REPORT_SEEDS, Confirmation
from kdsearch.errors import NothingEligible
from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.search.confirm import confirm_study
from kdsearch.search.engine import Outcome
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from tests.search import tabulated
from tests.search.conftest import STUDY, Go, make_study

Confirm = Callable[..., tuple[list[Confirmation], Outcome, list[TrialRow]]]


class Session(tabulated.Session):
    """The tabulated objective, with test data where the recipe asks for them and without validation data where there are none."""

    def _trained(self, epoch: int) -> dict[str, float]:
        row = super()._trained(epoch)
        if self.recipe.data.evaluate_on == "test":
            row["test_accuracy"] = row["val_accuracy"] - 1
            if self.recipe.data.validation == 0:
                del row["val_accuracy"]
        return row


OPTIONS = RunOptions(inline=True, session="tests.search.test_confirm:Session")


@pytest.fixture
def confirm(tmp_path: Path, go: Go) -> Confirm:
    """Confirm the study of ``go``, which was run before."""

    def confirm(*overrides: str, **options: Any) -> tuple[list[Confirmation], Outcome, list[TrialRow]]:
        study = make_study(tmp_path, STUDY, *overrides)
        run = Run(tmp_path / "run")
        found, outcome = confirm_study(study, run, tmp_path / "run" / "store", OPTIONS, Progress, **options)
        return found, outcome, read_trials(Run(tmp_path / "run"))

    return confirm


def fresh(rows: list[TrialRow], role: str = "confirm", stratum: str = "weights=1") -> list[tuple[str, int]]:
    return [
        (str(row.params), row.seeds[0])
        for row in rows
        if row.role == role and row.stratum == stratum and row.seeds and row.seeds[0] >= CHOICE_SEEDS
    ]


def test_choice_and_report_use_fresh_seeds_and_leave_the_search_alone(go: Go, confirm: Confirm) -> None:
    _, before = go()
    found, outcome, rows = confirm(top=3, seeds=2)
    assert outcome.exit_code == 0
    assert [row for row in rows if row.study != "tab | confirm"] == before
    assert [one.stratum for one in found] == ["weights=1", "weights=2"]
    seen = fresh(rows)
    assert len(seen) == len(set(seen)) == 3 * 2 + 2
    assert {seed for _, seed in seen} == {CHOICE_SEEDS, CHOICE_SEEDS + 1, REPORT_SEEDS, REPORT_SEEDS + 1}
    assert [seed for _, seed in fresh(rows, "baseline")] == [REPORT_SEEDS, REPORT_SEEDS + 1]
    one = found[0]
    assert one.chosen.validation == max(candidate.validation or 0 for candidate in one.candidates)
    assert one.test is not None
    assert one.validation is not None
    assert one.test.mean == pytest.approx(one.validation.mean - 1)
    assert one.differences["no_kd"].n == 2
    assert one.shrinkage == pytest.approx(one.chosen.search_value - one.validation.mean)


def test_a_single_candidate_needs_no_choice(go: Go, confirm: Confirm) -> None:
    go("budget.trials=4")
    found, _, rows = confirm("budget.trials=4", top=1, seeds=3)
    assert {seed for _, seed in fresh(rows)} == {REPORT_SEEDS, REPORT_SEEDS + 1, REPORT_SEEDS + 2}
    assert found[0].candidates[0].n == 3


def test_it_goes_on_where_it_stopped_and_adds_what_is_asked_more(go: Go, confirm: Confirm, tmp_path: Path) -> None:
    go("budget.trials=4")

    class Stops(Progress):
        calls = 0

        def update(self, ledger: object) -> None:
            Stops.calls += 1
            if Stops.calls == 20:
                raise KeyboardInterrupt

    study = make_study(tmp_path, STUDY, "budget.trials=4")
    with pytest.raises(KeyboardInterrupt):
        confirm_study(study, Run(tmp_path / "run"), tmp_path / "run" / "store", OPTIONS, Stops, top=2, seeds=2)
    _, outcome, rows = confirm("budget.trials=4", top=2, seeds=2)
    assert outcome.exit_code == 0
    whole = fresh(rows)
    assert len(whole) == len(set(whole)) == 2 * 2 + 2
    trained = tabulated.trained(tmp_path / "run" / "store")
    assert len({(key, epoch) for key, epoch, _, _ in trained}) == len(trained), "an epoch was trained twice"
    _, _, rows = confirm("budget.trials=4", top=2, seeds=3)
    assert set(whole) < set(fresh(rows))
    assert len(fresh(rows)) == 2 * 3 + 3


def test_the_choice_can_be_trained_on_everything(go: Go, confirm: Confirm, tmp_path: Path) -> None:
    go("budget.trials=3")
    found, outcome, _ = confirm("budget.trials=3", top=1, seeds=2, with_validation=True)
    assert outcome.exit_code == 0
    assert set(found[0].final) == {str(REPORT_SEEDS), str(REPORT_SEEDS + 1)}
    store = Store(tmp_path / "run" / "store")
    recipe = store.entry(found[0].final_keys[str(REPORT_SEEDS)]).recipe
    assert recipe["data"]["validation"] == 0
    assert recipe["distill"]["teachers"][0]["data"]["validation"] > 0


SIZES = """
name: sizes
recipe:
  data: {name: digits}
  model: {architecture: resnet8, width: $size}
  distill: {teachers: [{model: {architecture: resnet8}}], temperature: $temperature}
  optim: {epochs: 2}
space:
  size: {choices: [1, 2]}
  temperature: {choices: [4, 5]}
baselines: {no_kd: {distill: null}}
sampler: grid
"""


@pytest.mark.parametrize(("constraint", "size"), [("model_kib <= 10", 1), ("model_kib >= 20", 2)])
def test_the_baseline_keeps_the_constraints_too(go: Go, tmp_path: Path, constraint: str, size: int) -> None:
    override = f'constraints=["{constraint}"]'
    go(override, text=SIZES)
    study = make_study(tmp_path, SIZES, override)
    confirm_study(study, Run(tmp_path / "run"), tmp_path / "run" / "store", OPTIONS, Progress, top=1, seeds=2)
    rows = [row for row in read_trials(Run(tmp_path / "run")) if row.seeds and row.seeds[0] >= REPORT_SEEDS]
    assert {(row.role, row.params["size"]) for row in rows} == {("confirm", size), ("baseline", size)}


def test_nothing_to_confirm_is_exit_4(go: Go, confirm: Confirm) -> None:
    go("budget.trials=3")
    with pytest.raises(NothingEligible, match=r"none of \d+ finished trials keeps model_kib <= 1; give a larger bound"):
        confirm("budget.trials=3", 'constraints=["model_kib <= 1"]')
