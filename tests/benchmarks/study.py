"""A whole study against what one would write without kdsearch (:mod:`tests.benchmarks.baseline`).

    python -m tests.benchmarks.study                                 # the quickstart's configurations: about 40 minutes on two cores
    python -m tests.benchmarks.study --pictures CIFAR_FOLDER         # 32x32 pictures, ResNet20, teacher x5

Both sides are commands that are started, run the same configurations (recipes, epochs, batch size) two at a time on two cores, one thread
each, and end; their time is the whole command's, Ray's start included. Teachers are trained before, and the same for both; the first run,
which trains them and fills the tables, is shown apart. Students of an earlier repeat are taken out of the store, so that nothing is
replayed. The two sides take turns; each search has a seed of its own. For pictures, the ceiling is printed too: what reuse alone allows, a
step with a live teacher over one without a teacher, in the same process and with the same trainer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdsearch.record.run import Run
from kdsearch.record.store import Store
from kdsearch.record.trials import read_trials
from kdsearch.spec.study import load_study
from tests.benchmarks.common import finish, machine, parser, show, spread, table
from tests.benchmarks.steps import Group

QUICKSTART = (
    "space.coefficient={choices: [0.5]}",
    "space.schedule={choices: [cr_linear]}",
    "sampler=grid",
    "pruner=none",
    "baselines={}",
)
"""Every temperature × width of the quickstart, at 1 and at 2 bits: 48 configurations."""
PRUNED = {
    "median pruner": ("baselines={}",),
    "successive halving": ("baselines={}", "pruner=sha", "pruner.min_resource=2"),
}
"""The quickstart's own search: TPE, 48 configurations; with its pruner, and with one that stops two thirds after 2 epochs of 12."""
PICTURES = """
name: pictures
recipe:
  data: {{name: imagefolder, root: {root}, augment: crop_flip}}
  model: {{architecture: resnet20}}
  precision: {{weights: {{quantizer: shin, bits: 2}}}}
  distill:
    teachers: [{{model: {{architecture: resnet20, width: 5}}, optim: {{epochs: 1}}}}]
    temperature: $temperature
    coefficient: $coefficient
    schedule: cr_linear
  optim: {{epochs: 4, batch_size: 128, learning_rate: 0.1}}
space:
  temperature: {{choices: [2, 5, 10, 20], ordered: true}}
  coefficient: {{choices: [0.3, 0.7], ordered: true}}
sampler: grid
pruner: none
seeds: [0]
"""


def command(*words: str | Path) -> tuple[float, str]:
    """Seconds of a command, and what it says, which is shown where it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    if '"errors": [' in done.stdout and '"errors": []' not in done.stdout:
        sys.exit(f"{words}: {done.stdout[-2000:]}")
    return time.perf_counter() - began, done.stdout


def ours(source: str | Path, sets: Sequence[str], folder: Path, store: Path) -> tuple[float, list[float]]:
    """Run a study in a fresh folder: seconds, and the accuracies of its complete trials."""
    shutil.rmtree(folder, ignore_errors=True)
    more = [word for text in sets for word in ("--set", text)]
    seconds, _ = command("kdsearch", "run", source, *more, "--workers", "2", "--output", folder, "--store", store, "--quiet")
    rows = read_trials(Run(next(folder.iterdir())))
    return seconds, [row.value for row in rows if row.role == "search" and row.state == "COMPLETE" and row.value is not None]


def forget_students(store: Path) -> None:
    """Take out what trials trained; teachers, pre-trained students and tables stay."""
    kept = Store(store)
    for key in list(kept.keys()):
        entry = kept.entry(key)
        if entry.recipe.get("distill") is not None:
            shutil.rmtree(entry.folder)


def job(source: str | Path, sets: Sequence[str], store: Path, loader_workers: int) -> dict[str, Any]:
    """The same configurations for the baseline."""
    study = load_study(source, sets)
    cells = [(stratum, params) for stratum in study.strata_list() for params in study.grid(stratum)]
    recipes = {f"{s.name} {json.dumps(params)}": study.recipe_for(params, s, 0).model_dump_json() for s, params in cells}
    return {"configurations": recipes, "store": str(store), "workers": 2, "loader_workers": loader_workers}


def compare(
    source: str | Path, sets: Sequence[str], pruned: dict[str, Sequence[str]], repeats: int, folder: Path, loader_workers: int | None
) -> dict[str, Any]:
    """The two sides in turns."""
    store, runs = folder / "store", folder / "runs"
    first, _ = ours(source, sets, runs, store)
    jobs = {}
    for workers in (0, 1):
        jobs[workers] = folder / f"job-{workers}.json"
        jobs[workers].write_text(json.dumps(job(source, sets, store, workers)))
    count = len(json.loads(jobs[0].read_text())["configurations"])
    trial: dict[int, float] = {}
    if loader_workers is None:
        # The faster of a loader in the trial's own process and one beside it.
        trial = {workers: command("tests.benchmarks.baseline", file)[0] for workers, file in jobs.items()}
    chosen = min(trial, key=lambda workers: trial[workers]) if loader_workers is None else loader_workers
    times: dict[str, list[float]] = {"baseline": [], "kdsearch": []} | {name: [] for name in pruned}
    accuracy: dict[str, list[float]] = {"baseline": [], "kdsearch": []}
    best: dict[str, list[float]] = {name: [] for name in times}
    for repeat in range(repeats):
        seconds, said = command("tests.benchmarks.baseline", jobs[chosen])
        times["baseline"].append(seconds)
        found = list(json.loads(said.splitlines()[-1])["accuracy"].values())
        accuracy["baseline"] += found
        best["baseline"].append(max(found))
        forget_students(store)
        seconds, found = ours(source, sets, runs, store)
        times["kdsearch"].append(seconds)
        accuracy["kdsearch"] += found
        best["kdsearch"].append(max(found))
        for name, more in pruned.items():
            forget_students(store)
            seconds, found = ours(source, (*more, f"search_seed={repeat}"), runs, store)
            times[name].append(seconds)
            best[name].append(max(found))
    rows, document = [], {"configurations": count, "first_run_s": first, "loader_workers": chosen, "loader_trial_s": trial}
    for side, values in times.items():
        ratios = [one / other for one, other in zip(times["baseline"], values, strict=True)]
        document[side] = {"seconds": spread(values), "ratio": spread(ratios), "best": spread(best[side])}
        per_hour = count * 3600 / document[side]["seconds"]["median"]
        rows.append([side, show(spread(values), 1), f"{per_hour:.0f}", show(spread(ratios)), show(spread(best[side]))])
    over = document["baseline"]["seconds"]["median"] / first
    rows.append(["kdsearch, first run", f"{first:.1f}", f"{count * 3600 / first:.0f}", f"{over:.2f}", ""])
    header = ["", "seconds", "configurations per hour", "times the baseline's", "best accuracy %"]
    table(f"{count} configurations, {repeats} repeats in turns; loader workers of the baseline: {chosen}", header, rows)
    for side, values in accuracy.items():
        document[f"{side} accuracy"] = spread(values)
        print(f"validation accuracy of {side}: {show(spread(values))} %")
    return document


def ceiling(source: str | Path, store: Path, turns: int = 5) -> dict[str, Any]:
    """What reuse alone allows: a step with a live teacher over one without a teacher, in turns of an epoch each."""
    study = load_study(source)
    stratum = study.strata_list()[0]
    given = study.recipe_for(next(iter(study.grid(stratum))), stratum, 0)
    live = given.model_copy(update={"optim": given.optim.model_copy(update={"epochs": turns + 1})})
    groups = [Group(live, Store(store), 1, live=True), Group(live.model_copy(update={"distill": None}), Store(store), 1)]
    times = [[group.step() for group in groups] for _ in range(turns + 1)][1:]
    for group in groups:
        group.close()
    document = {
        "live_ms": spread([a for a, _ in times]),
        "plain_ms": spread([b for _, b in times]),
        "ratio": spread([a / b for a, b in times]),
    }
    header = ["live teacher, ms a step", "no teacher, ms a step", "ceiling of reuse"]
    table(
        f"{turns} epochs of each in turns", header, [[show(document["live_ms"], 0), show(document["plain_ms"], 0), show(document["ratio"])]]
    )
    return document


def subset(pictures: Path, folder: Path, per_class: int) -> Path:
    """The first pictures of each class, a fifth as many more for validation."""
    for place in sorted(path for path in (pictures / "train").iterdir() if path.is_dir()):
        files = sorted(place.iterdir())[: per_class + per_class // 5]
        for part, chosen in (("train", files[:per_class]), ("val", files[per_class:])):
            target = folder / part / place.name
            target.mkdir(parents=True, exist_ok=True)
            for file in chosen:
                shutil.copy(file, target)
    return folder


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--loader-workers", type=int, choices=(0, 1), help="of the baseline; default: the faster of the two, tried out")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--pictures", type=Path, metavar="FOLDER", help="an image folder of 32x32 pictures, in place of the quickstart")
    options.add_argument("--per-class", type=int, default=64, help="training pictures of each class that are used")
    given = options.parse_args()
    began = machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.pictures is None:
            document = compare("quickstart", QUICKSTART, PRUNED, given.repeats, folder, given.loader_workers)
        else:
            source = folder / "pictures.yaml"
            source.write_text(PICTURES.format(root=subset(given.pictures, folder / "png", given.per_class)))
            document = compare(source, (), {}, given.repeats, folder, given.loader_workers)
            document["ceiling"] = ceiling(source, folder / "store")
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
