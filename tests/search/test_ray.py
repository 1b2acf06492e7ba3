"""Ray Tune as the dispatcher, for real; Ray is started once for this file."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdsearch.search import ray_cluster
from kdsearch.search.ledger import Ledger
from kdsearch.search.progress import Progress
from tests.search.conftest import GRID, REPOSITORY, Go, states
from tests.search.tabulated import trained


@pytest.fixture(scope="module", autouse=True)
def ray_started() -> Iterator[None]:
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    os.environ["TABULATED_SECONDS"] = "0.02"
    ray = ray_cluster.ray
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()
    for name in ("PYTHONPATH", "TABULATED_SECONDS"):
        os.environ.pop(name)


def test_a_study_spends_its_budget_over_all_workers_and_trains_nothing_twice(go: Go, tmp_path: Path) -> None:
    outcome, rows = go(inline=False, segment=12)  # Ray Tune is started anew in the middle
    assert outcome.exit_code == 0
    for stratum in ("weights=1", "weights=2"):
        count = states([row for row in rows if row.stratum == stratum])
        assert count["COMPLETE"] + count["PRUNED"] == sum(count.values()) == 10
    assert all(row.epochs == 6 for row in rows if row.state == "COMPLETE")
    work = trained(tmp_path / "run" / "store")
    assert max(Counter((key, epoch) for key, epoch, _, _ in work).values()) == 1
    by_process = Counter(pid for _, _, pid, kind in work if kind == "student")
    assert max(by_process.values()) < 0.75 * sum(by_process.values())  # short trials are spread over the actors


@pytest.mark.parametrize("session", ["Session", "Stacked"])
def test_one_worker_sees_the_same_trials_as_a_run_without_ray(go: Go, tmp_path: Path, session: str) -> None:
    def told(inline: bool) -> list[Any]:
        _, rows = go("budget.trials=12", out=f"inline-{inline}", inline=inline, workers=1, session=f"tests.search.tabulated:{session}")
        return [(row.study, row.number, row.params, row.state, row.value, row.intermediate) for row in rows]

    assert told(True) == told(False)


FIVE = ("seeds=[0]", "baselines={}", "space.width={choices: [1]}", "space.temperature={choices: [1, 2, 3, 4, 5]}")


def test_a_worker_with_nothing_left_takes_over_half_of_what_another_has(go: Go, tmp_path: Path) -> None:
    outcome, rows = go(*FIVE, "recipe.optim.epochs=40", text=GRID, inline=False, session="tests.search.tabulated:Stacked", workers=2)
    assert outcome.exit_code == 0
    assert [(row.epochs, row.state) for row in rows] == [(40, "COMPLETE")] * 5
    work = trained(tmp_path / "run" / "store")
    assert max(Counter((key, epoch) for key, epoch, _, _ in work).values()) == 1  # nothing twice
    # Crews of three and of two; the two are done when the three are not.
    moved = [key for key in {key for key, *_ in work} if len({pid for one, _, pid, _ in work if one == key}) > 1]
    assert moved


class _Killer(Progress):
    """Kills the first worker it sees in the middle of a trial, once."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self._store = store
        self.killed: int | None = None
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, ledger: Ledger) -> None:
        last = [entry for entry in trained(self._store) if entry[3] == "student"][-1:]
        if self.killed is None and last and last[0][1] == 3:
            self.killed = last[0][2]
            os.kill(self.killed, signal.SIGKILL)


def test_a_killed_worker_s_trial_goes_on_from_its_last_epoch(go: Go, tmp_path: Path) -> None:
    killer = _Killer(tmp_path / "run" / "store")
    outcome, rows = go("pruner=none", "budget.trials=3", inline=False, progress=killer)
    assert killer.killed is not None
    assert any("it goes on in another from its last epoch" in note for note in killer.notes)
    assert outcome.exit_code == 0
    assert states(rows)["COMPLETE"] == sum(states(rows).values()) == 6
    assert all([epoch for epoch, _ in row.intermediate] == [1, 2, 3, 4, 5, 6] for row in rows)
    work = trained(tmp_path / "run" / "store")
    torn = next(key for key, _, pid, kind in reversed(work) if pid == killer.killed and kind == "student")
    epochs = [(epoch, pid) for key, epoch, pid, _ in work if key == torn]
    # The epoch that the worker was in when it died is the only one that is trained again.
    assert [epoch for epoch, _ in epochs] in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 4, 5, 6], [1, 2, 3, 3, 4, 5, 6])
    assert len({pid for _, pid in epochs}) == 2


def test_a_crew_whose_worker_is_killed_goes_on_and_nothing_is_lost(go: Go, tmp_path: Path) -> None:
    killer = _Killer(tmp_path / "run" / "store")
    study = ("pruner=none", "budget.trials=12", "resources.together=4")
    outcome, rows = go(*study, inline=False, progress=killer, session="tests.search.tabulated:Stacked")
    assert killer.killed is not None
    assert outcome.exit_code == 0
    assert states(rows)["COMPLETE"] == sum(states(rows).values()) == 24
    assert all([epoch for epoch, _ in row.intermediate] == [1, 2, 3, 4, 5, 6] for row in rows)
    together = (tmp_path / "run" / "store" / "together.log").read_text().split()
    assert together.count("4") > 8
    work = trained(tmp_path / "run" / "store")
    # Each of the crew trains no more again than the epoch that it was in.
    torn = {key for key, _, pid, kind in work if pid == killer.killed and kind == "student"}
    again = Counter((key, epoch) for key, epoch, _, _ in work)
    assert all(count == 1 or (key in torn and count == 2) for (key, _), count in again.items())
    assert sum(count - 1 for count in again.values()) <= 4


def test_a_worker_whose_own_code_raises_says_what(go: Go) -> None:
    outcome, rows = go("retries=0", *FIVE, text=GRID, inline=False, session="tests.search.nowhere:Session")
    assert outcome.exit_code == 1
    reasons = {row.reason for row in rows if row.state == "FAIL"}
    assert len(reasons) == 1
    [reason] = reasons
    assert reason is not None and "tests.search.nowhere:Session: no such session factory" in reason
    assert "again and again; look at whether every node has this kdsearch" in reason


POISON = """
name: poison
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  optim: {epochs: 3, learning_rate: $rate}
space:
  rate: {choices: [0.1, 0.2, 1.0e+6, 0.3, 0.4, 0.5, 0.6, 0.7]}
sampler: grid
"""


@pytest.mark.parametrize("retries", [0, 1])
def test_a_trial_that_kills_its_process_takes_no_other_of_its_crew_with_it(go: Go, retries: int) -> None:
    outcome, rows = go(f"retries={retries}", text=POISON, inline=False, session="tests.search.tabulated:Stacked")
    assert outcome.exit_code == 3
    assert states(rows) == {"COMPLETE": 7, "FAIL": 1}
    [failed] = [row for row in rows if row.state == "FAIL"]
    assert failed.params["rate"] == 1e6
    assert "died again and again" in (failed.reason or "")


DIVERGES = """
name: diverges
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  optim: {epochs: 3, learning_rate: $rate}
space:
  rate: {choices: [0.1, 1.0e+9]}
sampler: grid
seeds: [0, 1, 2]
"""


@pytest.mark.parametrize("inline", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["inline", "ray"])
def test_a_loss_that_is_not_finite_fails_its_trial_with_a_reason_and_the_study_goes_on(go: Go, inline: bool) -> None:
    outcome, rows = go(text=DIVERGES, inline=inline)
    assert outcome.exit_code == 3
    assert states(rows) == {"COMPLETE": 3, "FAIL": 3}
    assert {row.reason for row in rows if row.state == "FAIL"} == {"epoch 2: the training loss is nan"}
