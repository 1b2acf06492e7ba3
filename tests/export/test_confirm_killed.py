"""``kdsearch confirm`` as people run it: real training through Ray, its driver killed in both rounds; then handed over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdsearch.analysis.confirm import CHOICE_SEEDS, REPORT_SEEDS
from kdsearch.api import Study
from kdsearch.record.run import Run
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.spec.study import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a ``kdsearch`` command as a process; whatever is left of them is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
        with (tmp_path / "commands.err").open("a") as errors:
            command = [sys.executable, "-m", "kdsearch", *map(str, arguments)]
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _done(rows: list[TrialRow], first_seed: int) -> list[TrialRow]:
    """Finished trials of the confirmation on seeds from ``first_seed`` on."""
    return [row for row in rows if row.state == "COMPLETE" and row.seeds and row.seeds[0] >= first_seed]


def _killed_after(process: subprocess.Popen[str], folder: Path, first_seed: int) -> None:
    deadline = time.monotonic() + 120
    while not _done(read_trials(Run(folder)), first_seed):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _measured(rows: list[TrialRow]) -> dict[Any, Any]:
    """What each finished trial of the confirmation measured, but for time."""
    found: dict[Any, Any] = {}
    for row in _done(rows, CHOICE_SEEDS):
        name = (row.role, row.baseline, json.dumps(row.params, sort_keys=True), row.seeds[0])
        assert name not in found, "run twice"
        metrics = {k: v for k, v in row.metrics[str(row.seeds[0])].items() if not k.endswith("seconds")}
        found[name] = (row.value, row.keys, metrics, row.intermediate)
    return found


def test_a_confirmation_killed_in_both_rounds_ends_as_one_that_was_not_and_its_recipe_gives_the_same_network(
    searched: Study, start: Start, tmp_path: Path
) -> None:
    shutil.copytree(searched.folder, tmp_path / "runs" / "tiny")
    shutil.copytree(searched.folder, tmp_path / "whole" / "tiny")
    shutil.copytree(searched.store_root, tmp_path / "store")
    run = tmp_path / "runs" / "tiny"
    before = read_trials(Run(run))
    command = ("confirm", run, "--top", 2, "--seeds", 3, "--workers", 2, "--store", tmp_path / "store", "--with-validation", "--json")
    _killed_after(start(*command), run, CHOICE_SEEDS)
    _killed_after(start(*command), run, REPORT_SEEDS)
    said, _ = (last := start(*command)).communicate(timeout=240)
    assert last.returncode == 0

    rows = read_trials(Run(run))
    assert [row for row in rows if row.role == "search" or not row.seeds or row.seeds[0] < CHOICE_SEEDS][: len(before)] == before
    assert len(_done(rows, CHOICE_SEEDS)) == 2 * 3 + 3 * 3
    other = Study(tmp_path / "whole" / "tiny", store=shutil.copytree(searched.store_root, tmp_path / "other"))
    confirmed, _ = other.confirm(top=2, seeds=3, with_validation=True, inline=True, quiet=True)
    assert _measured(rows) == _measured(other.trials())
    assert json.loads(said)["confirmations"] == [one.to_json() for one in confirmed]

    for arguments in (["export", run, "--out", "out", "--store", "store"], ["train", "out/best.yaml", "--store", "empty", "--json"]):
        said, _ = (last := start(*arguments)).communicate(timeout=240)
        assert last.returncode == 0
    provenance = load_recipe(tmp_path / "out" / "best.yaml")[1]
    final = json.loads(said)["final"]
    assert provenance["seed"] == REPORT_SEEDS
    ours = {name: value for name, value in provenance["own_metrics"].items() if name != "train_seconds"}
    assert {name: final[name] for name in ours} == ours
    assert ours["test_accuracy"] == confirmed[0].final[str(REPORT_SEEDS)]
