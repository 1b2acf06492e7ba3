"""A driver that is killed, interrupted or terminated at random moments, then the same command again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from kdsearch.record.run import Run
from kdsearch.record.storage import JOURNAL
from kdsearch.record.trials import TrialRow, read_trials
from tests.search.conftest import STUDY, states
from tests.search.tabulated import trained

Start = Callable[..., "subprocess.Popen[str]"]
BUDGET = 10


def _written(folder: Path) -> int:
    """Bytes of work so far: the record and the note of what was trained."""
    return sum(path.stat().st_size for path in (folder / JOURNAL, folder / "store" / "trained.log") if path.exists())


def _wait_for_more(folder: Path, process: subprocess.Popen[str], more: int) -> bool:
    """Wait until the run has written ``more`` bytes than now; False when it ended before."""
    limit, deadline = _written(folder) + more, time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if _written(folder) >= limit:
            return True
        time.sleep(0.002)
    return False


def _finished(folder: Path) -> dict[tuple[str, int], TrialRow]:
    if not Run(folder).exists():
        return {}
    done = [row for row in read_trials(Run(folder)) if row.state in ("COMPLETE", "PRUNED")]
    return {(row.study, row.number): row for row in done}


def _killed_again_and_again(drivers: Start, tmp_path: Path, kills: int, seed: int, *mode: str) -> None:
    study, folder = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(STUDY)
    draw = random.Random(seed)
    before: dict[tuple[str, int], TrialRow] = {}
    hits = 0
    while hits < kills:
        process = drivers(str(study), str(folder), *mode, seconds=0.005)
        if not _wait_for_more(folder, process, draw.randrange(1, 9000)):
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        hits += 1
        now = _finished(folder)
        assert all(asdict(now[key]) == asdict(row) for key, row in before.items()), "a finished trial was changed"
        before = now
    assert hits >= min(kills, 5), "the study ended before it was killed often enough"
    process = drivers(str(study), str(folder), *mode)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said

    rows = read_trials(Run(folder))
    assert all(asdict(row) == asdict(before[row.study, row.number]) for row in rows if (row.study, row.number) in before)
    for stratum in ("weights=1", "weights=2"):
        count = states([row for row in rows if row.stratum == stratum])
        assert count["COMPLETE"] + count["PRUNED"] == BUDGET
        assert set(count) <= {"COMPLETE", "PRUNED", "interrupted"}
    baselines = states(rows, "baseline")
    assert baselines["COMPLETE"] == 2
    assert set(baselines) <= {"COMPLETE", "interrupted"}
    times = Counter((key, epoch) for key, epoch, _, kind in trained(folder / "store") if kind == "other")
    # An epoch is trained again only when its process died before the checkpoint of that epoch was written.
    assert sum(times.values()) - len(times) <= hits
    assert all(row.epochs == 6 and [e for e, _ in row.intermediate] == [1, 2, 3, 4, 5, 6] for row in rows if row.state == "COMPLETE")


def test_a_killed_driver_without_ray_loses_nothing(drivers: Start, tmp_path: Path) -> None:
    _killed_again_and_again(drivers, tmp_path, 6, 1, "--inline")


def test_a_killed_driver_with_ray_loses_nothing(drivers: Start, tmp_path: Path) -> None:
    _killed_again_and_again(drivers, tmp_path, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_driver_killed_five_times_in_four_studies_loses_nothing(drivers: Start, tmp_path: Path, seed: int) -> None:
    _killed_again_and_again(drivers, tmp_path, 5, 10 + seed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_stopped_driver_leaves_in_good_order_and_goes_on(drivers: Start, tmp_path: Path, number: int, code: int) -> None:
    study, folder = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(STUDY)
    mode = [] if number == signal.SIGTERM else ["--inline"]
    process = drivers(str(study), str(folder), *mode, seconds=0.05)
    assert _wait_for_more(folder, process, 6000)
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


def test_a_second_driver_is_refused_with_the_first_ones_host_and_process(drivers: Start, tmp_path: Path) -> None:
    study, folder = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(STUDY)
    first = drivers(str(study), str(folder), "--inline", seconds=0.05)
    assert _wait_for_more(folder, first, 1000)
    second = drivers(str(study), str(folder), "--inline")
    second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"process {first.pid} on host" in (tmp_path / "driver.err").read_text()
