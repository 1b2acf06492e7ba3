"""What a search gives up when more of its trials run at once, and what that saves.

    python -m tests.benchmarks.together           # about 5 minutes

Sampler and pruner hear of a trial only when it has run, so the more run at once the less each knows. The quickstart's search, real but
for its training: accuracy is a function of the configuration, with the noise of a seed and a curve over the epochs. For each number of
trials in one process, two processes: the expected accuracy of the configuration that was chosen, and the epochs that were trained.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.record.run import Run
from kdsearch.search.crews import Crew, Crews, Job
from kdsearch.search.ledger import Assignment, Ledger
from kdsearch.search.prerequisites import Prerequisites
from kdsearch.search.progress import Progress
from kdsearch.search.work import Event
from kdsearch.spec.study import load_study
from tests.benchmarks.common import finish, machine, parser, show, spread, table

EPOCHS, NOISE = 12, 1.5
SCHEDULES = {"constant": 0.0, "cr_linear": 1.0, "cr_cosine": 1.3}
PRUNERS = {"median": ("pruner=median",), "successive halving": ("pruner=sha", "pruner.min_resource=2")}


def expected(params: Mapping[str, Any]) -> float:
    """Accuracy, percent, of a configuration: the best temperature grows with the teacher's width."""
    temperature, width, coefficient = math.log2(params["temperature"]), math.log2(params["width"]), params["coefficient"]
    ridge = -0.75 * (temperature - 1 - 0.8 * width) ** 2 - 1.2 * (width - 1) ** 2
    return 80 + ridge + 6 * (coefficient - 0.1) * (1.3 - coefficient) + SCHEDULES[params["schedule"]]


def search(pruner: str, together: int, seed: int, folder: Path) -> tuple[list[float], int]:
    """Expected accuracies of what a search chooses, one of each stratum, and epochs trained."""
    overrides = ("baselines={}", *PRUNERS[pruner], f"search_seed={seed}", f"resources.together={together}")
    study = load_study("quickstart", overrides)
    run = Run(folder).create(study)
    draw, finals, taken, total = random.Random(seed), dict[str, float](), dict[str, int](), 0
    chosen: dict[str, tuple[float, float]] = {}

    def event(job: Job) -> tuple[str, Event]:
        nonlocal total
        assert isinstance(job, Assignment)
        final = finals.setdefault(job.id, expected(job.params) + draw.gauss(0, NOISE))
        epoch = taken[job.id] = taken.get(job.id, 0) + 1
        total += 1
        row = {"epoch": float(epoch), "val_accuracy": final - 40 * math.exp(-epoch / 2) + draw.gauss(0, NOISE) * (epoch < EPOCHS)}
        if epoch == EPOCHS:
            chosen[job.label] = max(chosen.get(job.label, (0.0, 0.0)), (final, expected(job.params)))
        return job.id, Event(0, "key", epoch, row, row if epoch == EPOCHS else None, stack=16)

    with run.locked():
        ledger = Ledger(study, run)
        crews = Crews(ledger, Prerequisites([], lambda *_: None), lambda: 2, Progress())
        running: list[Crew] = [crew for crew in (crews.start(), crews.start()) if crew is not None]
        while running:
            for crew in list(running):
                crews.take(crew, [event(job) for job in crew.members.values()])
                if not crew.members:
                    running.remove(crew)
    return [value for _, value in chosen.values()], total


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=60, help="searches of each kind")
    given = options.parse_args()
    began, rows, document = machine(), [], {}
    for pruner in PRUNERS:
        for together in (1, 2, 4, 8, 12):
            accuracies, epochs = [], []
            for seed in range(given.repeats):
                with tempfile.TemporaryDirectory() as folder:
                    found, count = search(pruner, together, seed, Path(folder) / "run")
                accuracies += found
                epochs.append(float(count))
            mean = sum(accuracies) / len(accuracies)
            error = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in accuracies)) / len(accuracies)
            document[f"{pruner}, {together}"] = {"accuracy": mean, "interval": error, "epochs": spread(epochs)}
            rows.append([pruner, together, f"{mean:.2f} ± {error:.2f}", show(spread(epochs), 0)])
    table(f"{given.repeats} searches of 2 × 24 trials each", ["pruner", "in each of two processes", "chosen, expected %", "epochs"], rows)
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
