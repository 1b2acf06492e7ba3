"""What a training step costs without distillation, with reused teacher outputs and with a live teacher; and where its time goes.

    python -m tests.benchmarks.steps                    # both workloads, teachers of width 1, 2, 5, 10: about 15 minutes on a core
    python -m tests.benchmarks.steps digits --rounds 15

``digits``: the quickstart's 2-bit student (8x8 pictures, batch 32). ``pictures``: a 2-bit ResNet20 on random 32x32 pictures, batch
64, crop and flip. One thread. Digits are trained eight students together, as a search does. What is compared takes turns, an epoch each,
in one process; evaluation is not counted; a ratio is the median of the rounds' ratios. Teachers have initial weights: what asking them
costs does not hang on what they know.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from kdsearch.record.store import Store
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.study import load_study
from kdsearch.training import epoch as epoch_module
from kdsearch.training.data import load
from kdsearch.training.epoch import Epoch
from kdsearch.training.guidance import Guidance
from kdsearch.training.networks import size
from kdsearch.training.optimization import Together
from kdsearch.training.quantizers import Quantizers
from kdsearch.training.session import Row, Session
from kdsearch.training.stacked import Stack
from kdsearch.training.teacher_outputs import KIND, trained_teacher
from kdsearch.training.views import Views
from tests.benchmarks.common import finish, machine, parser, pretend_trained, show, spread, synthetic_pictures, table

WIDTHS = (1.0, 2.0, 5.0, 10.0)
LIVE = 5
"""Epochs with a live teacher that are timed."""


class Timed(Session):
    """Notes the seconds of an epoch's training, without its evaluation and checkpoint."""

    trained = 0.0

    def _trained(self, epoch: Epoch) -> Row:
        self.trained = epoch.seconds
        return super()._trained(epoch)


class Group:
    """Sessions of one kind that train together, as a search has them."""

    def __init__(self, recipe: Recipe, store: Store, together: int, live: bool = False) -> None:
        rate = recipe.optim.learning_rate
        optims = [recipe.optim.model_copy(update={"learning_rate": rate * (1 + index / 1000)}) for index in range(together)]
        self.sessions = [Timed(recipe.model_copy(update={"optim": optim}), store, live_teachers=live) for optim in optims]

    def step(self) -> float:
        """An epoch of each; milliseconds of a step of one."""
        for found in Session.step_together(self.sessions):
            if isinstance(found, Exception):
                raise found
        return sum(one.trained for one in self.sessions) / len(self.sessions) / self.batches * 1e3

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return self.sessions[0]._training.batches

    def close(self) -> None:
        """Leave them."""
        for one in self.sessions:
            one.close()
            one.store.drop_checkpoints(one.key)


def digits(width: float | None, epochs: int) -> Recipe:
    study = load_study("quickstart", [f"recipe.optim.epochs={epochs}", "space.width={choices: [1, 2, 5, 10], ordered: true}"])
    stratum = study.strata_list()[-1]
    if width is None:
        return study.recipe_for_baseline(study.baselines_list(stratum)[0], stratum, 0)
    return study.recipe_for({"width": width, "temperature": 5, "coefficient": 0.5, "schedule": "cr_linear"}, stratum, 0)


def pictures(root: Path) -> Callable[[float | None, int], Recipe]:
    def make(width: float | None, epochs: int) -> Recipe:
        raw: dict[str, Any] = {
            "data": {"name": "imagefolder", "root": str(root), "augment": "crop_flip"},
            "model": {"architecture": "resnet20"},
            "precision": {"weights": {"quantizer": "shin", "bits": 2}},
            "optim": {"epochs": epochs, "batch_size": 64, "learning_rate": 0.1},
        }
        if width is not None:
            teacher = {"model": {"architecture": "resnet20", "width": width}}
            raw["distill"] = {"teachers": [teacher], "temperature": 5, "coefficient": 0.5, "schedule": "cr_linear"}
        return resolve_recipe(raw)

    return make


def compare(
    name: str, make: Callable[[float | None, int], Recipe], folder: Path, widths: tuple[float, ...], rounds: int, together: int
) -> dict[str, Any]:
    """(a): one table for a workload."""
    store = Store(folder / name)
    epochs = max(rounds, LIVE) + 2
    found: dict[str, Any] = {}
    rows = []
    for width in widths:
        recipe, plain = make(width, epochs), make(None, epochs)
        for one in (recipe, plain):
            pretend_trained(one, store)
        fills = filled(recipe, store, rounds + 1)
        tables = [path.stat().st_size for path in store.root.glob(f"blobs/{KIND}/*")]
        # Recipes are new to the store (another number of epochs), so that nothing is replayed.
        groups = {"plain": Group(plain, store, together), "reused": Group(recipe, store, together)}
        longer = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"epochs": epochs + 1})})
        live = Group(longer, store, together, live=True)
        times: dict[str, list[float]] = defaultdict(list)
        for turn in range(rounds + 1):
            for kind, group in list(groups.items())[:: 1 if turn % 2 else -1]:
                taken = group.step()
                if turn:
                    times[kind].append(taken)
        for turn in range(LIVE + 1):
            taken = live.step()
            if turn:
                times["live"].append(taken)
        for group in (*groups.values(), live):
            group.close()
        ratios = [reused / own for reused, own in zip(times["reused"], times["plain"], strict=True)]
        against = statistics.median(times["live"]) / statistics.median(times["reused"])
        entry = {kind: spread(values) for kind, values in times.items()}
        found[f"{width:g}"] = {**entry, "reused/plain": spread(ratios), "fill_s": spread(fills), "table_bytes": max(tables)}
        cells = [show(entry[kind]) for kind in ("plain", "reused", "live")]
        fill = f"{statistics.median(fills):.2f} s, {max(tables) / 1024:.0f} KiB"
        rows.append([f"×{width:g}", *cells, show(spread(ratios), 3), f"{against:.1f}", fill])
    header = ["teacher", "no KD, ms", "reused outputs, ms", "live teacher, ms", "reused / no KD", "live / reused", "an epoch's table"]
    table(f"{name}: a step of a student, {together} trained together, median (least to most), {rounds} epochs each", header, rows)
    return found


def filled(recipe: Recipe, store: Store, epochs: int) -> list[float]:
    """Fill the teacher's tables of so many epochs; seconds of each."""
    assert recipe.distill is not None
    data, teacher = load(recipe.data), trained_teacher(recipe.distill.teachers[0], store, "cpu")
    found = []
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        teacher.epoch(data, recipe.data.augment, recipe.seed, epoch)
        found.append(time.perf_counter() - began)
    return found


def breakdown(name: str, make: Callable[[float | None, int], Recipe], folder: Path, rounds: int, together: int) -> dict[str, Any]:
    """(c): shares of a distilled step, and of the machine's convolution rate."""
    recipe = make(1.0, rounds + 3)
    store = Store(folder / f"{name}-parts")
    pretend_trained(recipe, store)
    filled(recipe, store, rounds + 1)
    seconds: dict[str, float] = defaultdict(float)

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                seconds[part] += time.perf_counter() - began

        return call

    def served(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(*args: Any) -> Iterator[Any]:
            iterator = batches(*args)
            take = clocked("data and augmentation", lambda: next(iterator, None))
            while (batch := take()) is not None:
                yield batch

        return call

    evaluated = Session._evaluated

    def uncounted(session: Session, row: Row) -> Row:
        before = dict(seconds)
        done = evaluated(session, row)
        seconds.update(before)
        return done

    group = Group(recipe, store, together)
    group.step()
    model = group.sessions[0].model
    patches: list[tuple[Any, str, Any]] = [
        (Session, "_evaluated", uncounted),
        (Views, "batches", served(Views.batches)),
        (Guidance, "begin", clocked("teacher outputs", Guidance.begin)),
        (Together, "step", clocked("optimizer", Together.step)),
        (Stack, "logits", clocked("forward", Stack.logits)),
        (model, "forward", clocked("forward", model.forward)),
        (epoch_module, "order", clocked("data and augmentation", epoch_module.order)),
        (epoch_module, "weighted", clocked("loss", epoch_module.weighted)),
        (epoch_module, "backward", clocked("backward", epoch_module.backward)),
        *((Quantizers, part, clocked("quantizer", getattr(Quantizers, part))) for part in ("quantize", "after_step")),
    ]
    before = [(holder, attribute, getattr(holder, attribute)) for holder, attribute, _ in patches]
    for holder, attribute, function in patches:
        setattr(holder, attribute, function)
    try:
        per_step = sum(group.step() for _ in range(rounds)) / rounds / 1e3
    finally:
        for holder, attribute, function in before:
            setattr(holder, attribute, function)
    group.close()
    steps = rounds * group.batches
    whole = per_step * steps * together
    dataset = group.sessions[0].dataset
    seconds["the rest"] = whole - sum(seconds.values())
    plain = size(recipe.model, dataset.shape, dataset.classes)
    rate, done = convolution_rate(), 6 * plain.multiply_adds * len(dataset.train) / group.batches / per_step
    shares = {part: value / whole for part, value in sorted(seconds.items(), key=lambda item: -item[1])}
    rows = [[part, f"{1e3 * share * per_step:.2f}", f"{100 * share:.1f}"] for part, share in shares.items()]
    table(
        f"{name}: where a distilled step goes ({1e3 * per_step:.2f} ms a student, mean of {steps}, {together} together)",
        ["part", "ms", "%"],
        rows,
    )
    print(
        f"\n{done / 1e9:.1f} GFLOP/s in convolutions, {100 * done / rate:.0f}% of the {rate / 1e9:.1f} that a 64-channel one reaches here"
    )
    return {"step_ms": 1e3 * per_step, "shares": shares, "flops": done, "convolution_rate": rate}


def convolution_rate() -> float:
    """FLOP/s of the forward and backward pass of a 3×3 convolution of 64 channels on 32 pictures of 32×32, the best of 20."""
    x = torch.randn(32, 64, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(64, 64, 3, 3, requires_grad=True)
    grad = torch.randn(32, 64, 32, 32).to(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), grad)
        best = min(best, time.perf_counter() - began)
    return 6 * 32 * 64 * 64 * 9 * 32 * 32 / best


def memory(name: str, make: Callable[[float | None, int], Recipe], folder: Path, widths: tuple[float, ...]) -> dict[str, Any]:
    """Peak memory of a process that trains an epoch, teacher tables filled and empty."""
    found: dict[str, Any] = {}
    for width in widths:
        store = Store(folder / f"{name}-memory-{width:g}")
        recipe = make(width, 1)
        pretend_trained(recipe, store)
        peaks = []
        for seed_of_lr in (1.0, 1.001):  # the first fills the tables, the second, another recipe, finds them
            optim = recipe.optim.model_copy(update={"learning_rate": recipe.optim.learning_rate * seed_of_lr})
            text = recipe.model_copy(update={"optim": optim}).model_dump_json()
            done = subprocess.run([sys.executable, "-c", _CHILD, text, str(store.root)], check=True, capture_output=True, text=True)
            peaks.append(int(done.stdout) / 1024)
        found[f"{width:g}"] = {"filling_mib": peaks[0], "reusing_mib": peaks[1]}
    rows = [[f"×{width}", f"{entry['filling_mib']:.0f}", f"{entry['reusing_mib']:.0f}"] for width, entry in found.items()]
    table(f"{name}: peak memory of a trial's process, MiB", ["teacher", "fills tables", "finds tables"], rows)
    return found


_CHILD = """
import resource, sys
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.train import train
train(Recipe.model_validate_json(sys.argv[1]), Store(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("workloads", nargs="*", default=["digits", "pictures"], help="digits, pictures, or both")
    options.add_argument("--rounds", type=int, help="epochs that are timed; default 15 of digits, 5 of pictures")
    options.add_argument("--together", type=int, help="students trained as one stack; default 8 of digits, 1 of pictures")
    options.add_argument("--widths", type=float, nargs="+", default=WIDTHS, help="of teachers")
    given = options.parse_args()
    torch.set_num_threads(1)
    began, document = machine(), {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in given.workloads:
            rounds = given.rounds or {"digits": 15, "pictures": 5}[name]
            together = given.together or {"digits": 8, "pictures": 1}[name]
            make = digits if name == "digits" else pictures(synthetic_pictures(folder / "png", 128))
            document[name] = {
                "steps": compare(name, make, folder, tuple(given.widths), rounds, together),
                "parts": breakdown(name, make, folder, rounds, together),
                "memory": memory(name, make, folder, tuple(given.widths)),
            }
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
