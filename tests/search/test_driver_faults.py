"""A driver that is killed, interrupted or terminated at random moments, then the same command again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdsearch.record.run import Run
from kdsearch.record.trials import read_trials
from tests.search.conftest import STUDY, states
from tests.search.faults import BUDGET, check_spent, driver_killed, wait_for_more

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(("kills", "mode"), [(6, ["--inline"]), (2, [])], ids=["inline", "ray"])
def test_a_killed_driver_loses_nothing(tmp_path: Path, kills: int, mode: list[str]) -> None:
    row = driver_killed(tmp_path, random.Random(1), kills, *mode)
    assert (row.tries, row.lost) == (kills, 0)
    # An epoch is trained again only when its process died before the checkpoint of that epoch was written.
    assert row.again <= kills * (1 if mode else 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_driver_killed_five_times_in_four_studies_loses_nothing(tmp_path: Path, seed: int) -> None:
    row = driver_killed(tmp_path, random.Random(10 + seed), 5)
    assert (row.tries, row.lost) == (5, 0)
    assert row.again <= 10


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_stopped_driver_leaves_in_good_order_and_goes_on(drivers: Start, tmp_path: Path, number: int, code: int) -> None:
    study, folder = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(STUDY)
    mode = [] if number == signal.SIGTERM else ["--inline"]
    process = drivers(str(study), str(folder), *mode, seconds=0.05)
    assert wait_for_more(folder, process, 6000)
    process.send_signal(number)
    said, _ = process.communicate(timeout=10)  # what Slurm and Kubernetes grant is more
    assert process.returncode == code
    assert "the same command goes on" in json.loads(said.splitlines()[-1])["reason"]
    rows = read_trials(Run(folder))
    assert "RUNNING" not in {row.state for row in rows}
    process = drivers(str(study), str(folder), "--inline")
    process.communicate(timeout=60)
    assert process.returncode == 0
    count = states(read_trials(Run(folder)))
    assert count["COMPLETE"] + count["PRUNED"] == 2 * BUDGET
    assert count["WAITING"] == count["RUNNING"] == 0


def test_a_second_driver_is_refused_and_takes_over_when_the_first_is_dead(drivers: Start, tmp_path: Path) -> None:
    study, folder = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(STUDY)
    first = drivers(str(study), str(folder), "--inline", seconds=0.05)
    assert wait_for_more(folder, first, 1000)
    second = drivers(str(study), str(folder), "--inline")
    second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"process {first.pid} on host" in (tmp_path / "driver.err").read_text()
    first.kill()
    first.wait()
    third = drivers(str(study), str(folder), "--inline")
    third.communicate(timeout=60)
    assert third.returncode == 0
    check_spent(folder)
