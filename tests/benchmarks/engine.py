"""What the search adds to training: time of a trial beyond it, start-up of each command, and the report on 1,000 trials.

    python -m tests.benchmarks.engine                   # about 6 minutes on two cores
    python -m tests.benchmarks.engine --trials 200 --repeats 5

Trials are those of the real searcher, pruner, journal and Ray Tune with two actors; in place of training stands a tabulated objective
that sleeps 0.05 s an epoch, so that what is left of the wall time is the engine's: (wall − sleep / 2) / trials, Ray's start apart.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdsearch.record.run import Run
from kdsearch.record.trials import read_trials
from kdsearch.search.engine import run_study
from kdsearch.search.options import RunOptions
from kdsearch.search.progress import Progress
from kdsearch.spec.study import load_study
from tests.benchmarks.common import finish, machine, parser, show, spread, table
from tests.search.conftest import REPOSITORY, STUDY
from tests.search.drive import SESSION

SECONDS = 0.05
COMMANDS = {
    "--help": ("--help",),
    "validate": ("validate", "studies/quickstart.yaml"),
    "run --dry-run": ("run", "quickstart", "--dry-run"),
    "status": ("status", "{run}"),
    "trials": ("trials", "{run}"),
    "best": ("best", "{run}"),
}


def study_of(folder: Path, trials: int) -> Any:
    """The tests' study on the tabulated objective, two strata of so many trials each."""
    file = folder / f"study-{trials}.yaml"
    file.write_text(STUDY)
    return load_study(file, [f"budget.trials={trials}"])


def overhead(folder: Path, trials: int, repeats: int) -> dict[str, Any]:
    """(d) Seconds of a trial beyond its training."""
    from kdsearch.search import ray_cluster

    os.environ |= {"TABULATED_SECONDS": str(SECONDS), "PYTHONPATH": str(REPOSITORY)}
    ray_cluster.ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    found = []
    for repeat in range(repeats):
        study = study_of(folder, trials)
        run = Run(folder / f"run-{repeat}").create(study)
        store = folder / f"store-{repeat}"
        began = time.perf_counter()
        run_study(study, run, store, RunOptions(workers=2, session=SESSION), Progress())
        wall = time.perf_counter() - began
        epochs = len((store / "trained.log").read_text().splitlines())
        count = len([row for row in read_trials(run) if row.state in ("COMPLETE", "PRUNED")])
        found.append((wall - epochs * SECONDS / 2) / count)
    ray_cluster.ray.shutdown()
    os.environ["TABULATED_SECONDS"] = "0"
    print(
        f"\nA trial beyond its training: {show(spread(found), 3)} s; {repeats} studies of {2 * trials} trials and 2 baselines, two actors"
    )
    return spread(found)


def seconds_of(*words: str) -> float:
    """Wall time of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    return time.perf_counter() - began


def start_up(run: Path, repeats: int) -> dict[str, Any]:
    """Seconds of each command on a small run."""
    found = {}
    for name, words in COMMANDS.items():
        given = [word.format(run=run) for word in words]
        seconds_of("kdsearch", *given)
        found[name] = spread([seconds_of("kdsearch", *given) for _ in range(repeats)])
    table("Start-up, seconds", ["command", "median (least to most)"], [[name, show(value)] for name, value in found.items()])
    return found


def report(folder: Path, trials: int, repeats: int) -> dict[str, Any]:
    """Seconds that ``report`` takes on so many trials beyond its imports."""
    study = study_of(folder, trials // 2)
    run = Run(folder / "large").create(study)
    run_study(study, run, folder / "large-store", RunOptions(inline=True, session=SESSION), Progress())
    words = ("kdsearch", "report", str(run.path))
    imports = "import kdsearch.cli, kdsearch.report.build, optuna, pandas"
    whole, loading = [], []
    for _ in range(repeats):
        whole.append(seconds_of(*words))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", imports], check=True)
        loading.append(time.perf_counter() - began)
    beyond = [one - statistics.median(loading) for one in whole]
    size = (run.path / "report.html").stat().st_size
    rows = [["whole", show(spread(whole))], ["imports", show(spread(loading))], ["beyond imports", show(spread(beyond))]]
    table(f"`kdsearch report` on {trials} trials, {size / 2**20:.1f} MiB, seconds", ["", "median (least to most)"], rows)
    return {"whole": spread(whole), "imports": spread(loading), "beyond": spread(beyond), "bytes": size}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=50, help="of each of two strata, for the overhead")
    options.add_argument("--large", type=int, default=1000, help="trials that the report shows")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", choices=["overhead", "report"], help="a part of it")
    given = options.parse_args()
    began = machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        document = {}
        if given.only != "report":
            document["overhead_s"] = overhead(folder, given.trials, given.repeats)
            document["start_up_s"] = start_up(folder / "run-0", given.repeats)
        if given.only != "overhead":
            document["report_s"] = report(folder, given.large, given.repeats)
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
