"""Small studies on the tabulated objective, and drivers as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdsearch.record.run import Run
from kdsearch.record.trials import TrialRow, read_trials
from kdsearch.search.engine import Outcome, run_study
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.spec.study import Study, load_study
from tests.search.drive import SESSION

REPOSITORY = Path(__file__).parent.parent.parent

STUDY = """
name: tab
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  precision: {weights: $weights}
  init: {model: {architecture: resnet8}}
  distill: {teachers: [{model: {architecture: resnet8, width: $width}}], temperature: $temperature, coefficient: $coefficient}
  optim: {epochs: 6, learning_rate: 0.1}
space:
  weights: {choices: {1: {quantizer: shin, bits: 1}, 2: {quantizer: shin, bits: 2}}}
  width: {choices: [1, 2], ordered: true}
  temperature: {low: 1, high: 20, log: true}
  coefficient: {low: 0.1, high: 1}
strata: [weights]
baselines: {no_kd: {distill: null}}
sampler: {name: tpe, startup_trials: 4}
pruner: {name: median, startup_trials: 3}
budget: {trials: 10}
"""

GRID = """
name: cells
recipe:
  data: {name: digits}
  model: {architecture: resnet8}
  distill: {teachers: [{model: {architecture: resnet8, width: $width}}], temperature: $temperature}
  optim: {epochs: 3}
space:
  width: {choices: [1, 2], ordered: true}
  temperature: {choices: [1, 5, 10], ordered: true}
baselines: {no_kd: {distill: null}}
sampler: grid
seeds: [0, 1]
"""

Go = Callable[..., tuple[Outcome, list[TrialRow]]]


def make_study(folder: Path, text: str = STUDY, *overrides: str) -> Study:
    file = folder / "study-as-written.yaml"
    file.write_text(text)
    return load_study(file, overrides)


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Run a study in ``tmp_path/run`` (inline unless said otherwise) and read its trials."""

    def run(
        *overrides: str, text: str = STUDY, out: str = "run", progress: Progress | None = None, **options: Any
    ) -> tuple[Outcome, list[TrialRow]]:
        study = make_study(tmp_path, text, *overrides)
        folder = Run(tmp_path / out).create(study)
        wanted = RunOptions(**{"inline": True, "session": SESSION, **options})
        outcome = run_study(study, folder, tmp_path / out / "store", wanted, progress or Progress())
        return outcome, read_trials(Run(tmp_path / out))

    return run


def states(rows: list[TrialRow], role: str = "search") -> Counter[str]:
    """States of the trials of a role; interrupted ones under that name."""
    return Counter("interrupted" if row.reason == "interrupted" else row.state for row in rows if row.role == role)


def launch(said: Path, *arguments: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    """A driver as a process of its own session; ``said`` takes its standard error. ``seconds``: what an epoch takes."""
    environment = {**os.environ, "TABULATED_SECONDS": str(seconds), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with said.open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.search.drive", *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start drivers as processes of their own session; whatever is left of them is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        started.append(launch(tmp_path / "driver.err", *arguments, seconds=seconds))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
