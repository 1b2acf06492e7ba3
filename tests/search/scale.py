"""A search of thousands of trials, measured and killed twice: ``python -m tests.search.scale [--trials 10000] [--seed 0]``.

The study's own sampler (TPE), pruner, ledger, journal and Ray (two actors); only the training is a formula
(:mod:`tests.search.tabulated`). Prints a Markdown table: at 1,000, 5,000 and 10,000 trials the driver's memory, now and at most, that
of Ray's daemons and workers, and the seconds per trial around there (the last tenth of them). The driver is killed (SIGKILL) twice at
random moments; every trial that had ended must be there, unchanged, in the end.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from kdsearch.record.run import Run
from kdsearch.record.storage import JOURNAL
from kdsearch.record.trials import read_trials
from tests.search.conftest import launch, states
from tests.search.faults import Finished, changed, finished

STUDY = """
name: scale
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  precision: {weights: {quantizer: shin, bits: 2}}
  distill: {teachers: [{model: {architecture: resnet8, width: $width}}], temperature: $temperature, coefficient: $coefficient}
  optim: {epochs: 4, learning_rate: $rate}
space:
  width: {choices: [1, 2], ordered: true}
  temperature: {low: 1, high: 20, log: true}
  coefficient: {low: 0.1, high: 1}
  rate: {low: 0.001, high: 1, log: true}
sampler: tpe
pruner: median
budget: {trials: TRIALS}
"""
_ENDS = '"op_code":6,'
"""A step of the journal that changes a trial's state."""


@dataclass
class Mark:
    """What was seen when so many trials had ended."""

    trials: int
    now: float
    """MiB of the driver."""
    peak: float
    """MiB of the driver at most, since it started."""
    others: float
    """MiB of the processes that it started."""
    seconds: float
    """Per trial, over the last tenth of the trials so far."""


@dataclass
class Scale:
    """How a search of many trials went."""

    marks: list[Mark] = field(default_factory=list)
    killed_at: list[int] = field(default_factory=list)
    lost: int = 0
    trials: int = 0
    """Trials that ended."""
    interrupted: int = 0
    minutes: float = 0.0


class _Counter:
    """Trials that have ended, read from the journal as it grows."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._offset = journal, 0
        self.ended = 0

    def look(self) -> int:
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    text = line.decode()
                    if _ENDS in text and json.loads(text)["state"] in (1, 2):  # COMPLETE, PRUNED
                        self.ended += 1
        return self.ended


def _memory(pid: int) -> tuple[float, float]:
    """(now, at most) resident MiB of a process; zeros when it is gone."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) / 1024
    except OSError:
        return 0.0, 0.0
    return found["VmRSS"], found["VmHWM"]


def children(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, todo = [], [pid]
    while todo:
        todo += (here := parents.get(todo.pop(), []))
        found += here
    return found


def scale(folder: Path, trials: int, kills: int, seed: int, *, marks: tuple[int, ...] = (), quiet: bool = True) -> Scale:
    """Search ``trials`` configurations, killed ``kills`` times, and look at each of ``marks`` trials."""
    folder.mkdir(parents=True, exist_ok=True)
    study, out, said = folder / "study.yaml", folder / "run", folder / "said"
    study.write_text(STUDY.replace("TRIALS", str(trials)))
    draw = random.Random(seed)
    at = sorted(draw.randrange(trials // 10, trials * 9 // 10) for _ in range(kills))
    counter, result, wanted = _Counter(out / JOURNAL), Scale(), deque(marks)
    times: deque[tuple[int, float]] = deque()
    before: Finished = {}
    began = time.monotonic()
    process: subprocess.Popen[str] = launch(said, str(study), str(out))
    try:
        while process.poll() is None:
            time.sleep(0.05)
            ended, now = counter.look(), time.monotonic()
            if not times or times[-1][0] != ended:
                times.append((ended, now))
            if wanted and ended >= wanted[0]:
                first = next(one for one in times if one[0] >= 0.9 * wanted[0])
                rss, peak = _memory(process.pid)
                others = sum(_memory(child)[0] for child in children(process.pid))
                mark = Mark(wanted.popleft(), rss, peak, others, (now - first[1]) / max(ended - first[0], 1))
                result.marks.append(mark)
                if not quiet:
                    print(f"| {mark.trials} | {rss:.0f} | {peak:.0f} | {others:.0f} | {mark.seconds:.3f} |", flush=True)
            if at and ended >= at[0]:
                at.pop(0)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                result.killed_at.append(ended)
                found = finished(out)
                result.lost += changed(before, found)
                before = found
                process = launch(said, str(study), str(out))
        process.communicate()
        assert process.returncode == 0, said.read_text()[-2000:]
    finally:
        if process.poll() is None:
            process.kill()
    found = finished(out)
    result.lost += changed(before, found)
    result.trials, result.minutes = len(found), (time.monotonic() - began) / 60
    result.interrupted = states(read_trials(Run(out)))["interrupted"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    marks = tuple(mark for mark in (100, 300, 1_000, 5_000, 10_000) if mark <= given.trials and (mark >= 1_000 or given.trials < 1_000))
    print("| trials | driver, MiB | at most | Ray's processes, MiB | seconds per trial |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="kdsearch-scale-") as folder:
        found = scale(Path(folder), given.trials, 2, given.seed, marks=marks, quiet=False)
    print(
        f"\n{found.trials} trials in {found.minutes:.1f} min, killed at {' and '.join(map(str, found.killed_at))}: "
        f"{found.lost} lost or changed, {found.interrupted} interrupted and run again"
    )


if __name__ == "__main__":
    main()
