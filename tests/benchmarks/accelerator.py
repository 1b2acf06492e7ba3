"""A 2-bit ResNet20 on 32x32 pictures on an accelerator: eager, compiled and captured, one trial and several at once.

    python -m tests.benchmarks.accelerator                                     # 50,000 pictures, batch 128, on cuda
    python -m tests.benchmarks.accelerator --device cpu --images 256 --batch 32 --steps 5     # the same at a reduced size

First correctness against the CPU: a trained step's loss and the logits after ten steps. Then milliseconds a step (median of five groups of
``--steps``) and what 200 epochs of it take. ``trainer``: a whole epoch of the trainer as it is, data, teacher tables, evaluation and
checkpoint included. ``stacked``: ``torch.func.vmap`` over students that share a batch, their weights quantized before the step.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.record.store import Store
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.recipe import Recipe
from kdsearch.training.losses import distillation
from kdsearch.training.models import CifarResNet
from kdsearch.training.optimization import make_optimizer
from kdsearch.training.quantizers import Quantizers, apply_precision
from kdsearch.training.quantizers.functions import symmetric_codes
from kdsearch.training.quantizers.step import l2_step
from kdsearch.training.session import Session
from tests.benchmarks.common import finish, machine, parser, pretend_trained, show, spread, synthetic_pictures, table

GROUPS = 5
EPOCHS = 200


def recipe_of(root: Path | None, batch: int, epochs: int = EPOCHS) -> Recipe:
    data: dict[str, Any] = {"name": "digits"} if root is None else {"name": "imagefolder", "root": str(root), "augment": "crop_flip"}
    return resolve_recipe(
        {
            "data": data,
            "model": {"architecture": "resnet20"},
            "precision": {"weights": {"quantizer": "shin", "bits": 2}},
            "distill": {"teachers": [{"model": {"architecture": "resnet20", "width": 1.5}}], "temperature": 5, "coefficient": 0.5},
            "optim": {"epochs": epochs, "batch_size": batch, "learning_rate": 0.1},
        }
    )


class Trial:
    """A student with its optimizer on one batch that stays on the device, as a step sees it."""

    def __init__(self, device: str, batch: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.recipe, self.device = recipe_of(None, batch), device
        model = CifarResNet(20, 1.0)
        apply_precision(model, self.recipe.precision)
        draw = torch.Generator().manual_seed(1)
        self.images = torch.randn(batch, 3, 32, 32, generator=draw).to(device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,), generator=draw).to(device)
        self.targets = torch.softmax(torch.randn(batch, 10, generator=draw), 1).to(device)
        self.model = model.to(device).train()
        self.quantizers = Quantizers([self.model])
        self.optimizer = make_optimizer(self.recipe.optim, self.model)
        self.network: Callable[[Tensor], Tensor] = self.model
        self.loss = torch.zeros((), device=device)

    def step(self) -> None:
        """All that a training step does between two batches."""
        assert self.recipe.distill is not None
        self.quantizers.quantize()
        logits = self.network(self.images)
        loss = distillation(logits.float(), self.labels, self.targets, self.recipe.distill, 0.5)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.quantizers.after_step([1])
        self.loss = loss.detach()

    def captured(self) -> Callable[[], None]:
        """The whole step as a graph of the device, replayed."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


class Stacked:
    """Students of one architecture stepped as one, by ``vmap`` over their weights: the gradient of a quantized weight is its master's."""

    def __init__(self, count: int, device: str, batch: int) -> None:
        networks = [CifarResNet(20, 1.0).to(device).train() for _ in range(count)]
        self.masters, self.buffers = torch.func.stack_module_state(networks)
        self.masters = {name: value.detach() for name, value in self.masters.items()}
        self.momentum = {name: torch.zeros_like(value) for name, value in self.masters.items()}
        self.network = CifarResNet(20, 1.0).to("meta")
        alone = Trial(device, batch)
        self.images, self.labels, self.targets = alone.images, alone.labels, alone.targets
        self.gradients = torch.func.vmap(torch.func.grad(self._loss), in_dims=(0, 0))

    def _loss(self, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        logits: Any = torch.func.functional_call(self.network, (weights, buffers), (self.images,))
        return 0.5 * F.cross_entropy(logits, self.labels) + 12.5 * F.cross_entropy(logits / 5, self.targets)

    @torch.no_grad()
    def step(self) -> None:
        """Quantize, gradients of all, SGD with Nesterov momentum."""
        weights = {}
        for name, master in self.masters.items():
            if master.dim() > 2 or name == "fc.weight":
                rows = master.flatten(1)
                step = l2_step(rows, 2).unsqueeze(1)
                weights[name] = (symmetric_codes(rows, step, 1) * step).view(master.shape)
            else:
                weights[name] = master
        for name, gradient in self.gradients(weights, self.buffers).items():
            moved = self.momentum[name].mul_(0.9).add_(gradient)
            self.masters[name].sub_(gradient.add(moved, alpha=0.9), alpha=0.1)


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def milliseconds(step: Callable[[], None], device: str, steps: int) -> list[float]:
    """Of a step, in each group."""
    for _ in range(3):
        step()
    found = []
    for _ in range(GROUPS):
        wait(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        found.append((time.perf_counter() - began) / steps * 1e3)
    return found


def agreement(device: str, batch: int) -> dict[str, float]:
    """Losses and logits of ten steps on the device against the CPU's."""
    own, reference = Trial(device, batch), Trial("cpu", batch)
    gaps = []
    for _ in range(10):
        own.step()
        reference.step()
        gaps.append(abs(float(own.loss) - float(reference.loss)) / float(reference.loss))
    with torch.no_grad():
        logits = [one.model.eval()(one.images).float().cpu() for one in (own, reference)]
    return {
        "loss_first": gaps[0],
        "loss_tenth": gaps[-1],
        "logits": float((logits[0] - logits[1]).abs().max() / logits[1].abs().max()),
        "same_answers": float((logits[0].argmax(1) == logits[1].argmax(1)).double().mean()),
    }


def _beside(device: str, batch: int, steps: int, gate: Any, results: Any) -> None:
    torch.set_num_threads(1)
    trial = Trial(device, batch)
    step = trial.captured() if device != "cpu" else trial.step
    for _ in range(3):
        step()
    wait(device)
    gate.wait()
    results.put(statistics.median(milliseconds(step, device, steps)))


def beside(count: int, device: str, batch: int, steps: int) -> float:
    """Milliseconds per step and trial where so many processes share the device."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_beside, args=(device, batch, steps, gate, results)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return statistics.median(found) / count


def trainer(device: str, images: int, batch: int) -> dict[str, float]:
    """Seconds of an epoch of the trainer as it is, tables found."""
    with tempfile.TemporaryDirectory() as place:
        root = synthetic_pictures(Path(place) / "png", images)
        store = Store(Path(place) / "store")
        recipe = recipe_of(root, batch, GROUPS + 2)
        pretend_trained(recipe, store)
        again = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"learning_rate": 0.05})})
        for one in (again, recipe):  # the first fills the tables
            with Session(one, store, device=device) as session:
                found = [session.step()["seconds"] for _ in range(GROUPS + 1)][1:]
    return spread(found)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--images", type=int, default=50_000)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--steps", type=int, default=100, help="of each of five groups")
    options.add_argument("--together", type=int, nargs="+", default=[2, 4], help="trials at once")
    given = options.parse_args()
    device, batch, steps = given.device, given.batch, given.steps
    if device == "cpu":
        torch.set_num_threads(1)
    began, per_epoch = machine(), -(-given.images // batch)
    document: dict[str, Any] = {"device": device, "images": given.images, "batch": batch, "agreement": agreement(device, batch)}
    close = document["agreement"]
    print(f"against the CPU: loss {close['loss_first']:.1e} apart after one step, {close['loss_tenth']:.1e} after ten; ", end="")
    print(f"logits {close['logits']:.1e}, {100 * close['same_answers']:.0f}% the same answers")
    rows: list[list[object]] = []

    def add(name: str, found: list[float]) -> None:
        document[name] = spread(found)
        rows.append([name, show(spread(found), 3), f"{statistics.median(found) / 1e3 * per_epoch * EPOCHS:.1f}"])

    add("eager", milliseconds(Trial(device, batch).step, device, steps))
    compiled = Trial(device, batch)
    compiled.network = torch.compile(compiled.model)
    start = time.perf_counter()
    compiled.step()
    wait(device)
    document["compile_s"] = time.perf_counter() - start
    add("compiled", milliseconds(compiled.step, device, steps))
    if device == "cpu":
        rows.append(["captured", "needs CUDA", "-"])
    else:
        add("captured", milliseconds(Trial(device, batch).captured(), device, steps))
    for count in given.together:
        add(f"{count} processes, each step and trial", [beside(count, device, batch, steps)])
        add(
            f"{count} stacked, each step and trial",
            [value / count for value in milliseconds(Stacked(count, device, batch).step, device, steps)],
        )
    epoch = document["trainer_epoch_s"] = trainer(device, given.images, batch)
    rows.append(["trainer, eager", f"{epoch['median'] / per_epoch * 1e3:.3f}", f"{epoch['median'] * EPOCHS:.1f}"])
    title = f"2-bit ResNet20, {given.images} pictures, batch {batch}, {device}; compiling took {document['compile_s']:.0f} s"
    table(title, ["", "ms per step, median (least to most)", f"seconds of {EPOCHS} epochs"], rows)
    finish(document, began, given.json)


if __name__ == "__main__":
    main()
