"""What one would write without kdsearch: Ray Tune with OptunaSearch, a torchvision DataLoader, the teacher run on every batch.

    python -m tests.benchmarks.baseline JOB.json

Written as well as such a script is: pictures in memory, persistent loader workers where there are any, actors that are reused and keep
data and teachers, one report per epoch, no checkpoints, no loggers, evaluation in large batches without augmentation. It trains the
same recipes as the study that it is held against: networks, quantizers, learning rate and coefficient schedules are kdsearch's own.
``JOB.json`` (written by :mod:`tests.benchmarks.study`): ``configurations`` (name → recipe as JSON), ``store`` (with the trained
teachers), ``workers``, ``loader_workers``. Prints one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
import torch.nn.functional as F
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training import schedules
from kdsearch.training.augment import AUGMENTATIONS
from kdsearch.training.data import DataSet, load
from kdsearch.training.keys import key_of
from kdsearch.training.networks import initial, load_trained
from kdsearch.training.optimization import make_optimizer
from kdsearch.training.quantizers import Quantizers, cached


@lru_cache(maxsize=1)
def read(file: str) -> dict[str, Any]:
    """The job."""
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


class InMemory(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with a transform for each, as torchvision's data sets have."""

    def __init__(self, images: Tensor, labels: Tensor, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def transform(dataset: DataSet, augment: str) -> v2.Transform:
    """Crop, flip, scale, normalise."""
    kind = AUGMENTATIONS[augment]
    steps: list[v2.Transform] = []
    if kind is not None:
        steps.append(v2.RandomCrop(dataset.shape[1:], padding=kind.pad))
        steps += [v2.RandomHorizontalFlip()] if kind.flip else []
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(dataset.mean, dataset.std)])


@lru_cache(maxsize=2)
def loaders(recipe: str, workers: int) -> tuple[DataSet, Any, Tensor, Tensor]:
    """Training loader and validation pictures, kept in the actor."""
    made = Recipe.model_validate_json(recipe)
    dataset = load(made.data)
    assert isinstance(dataset.train.images, Tensor) and dataset.validation is not None
    training = DataLoader(
        InMemory(dataset.train.images, dataset.train.labels, transform(dataset, made.data.augment)),
        batch_size=made.optim.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    assert isinstance(dataset.validation.images, Tensor)
    return dataset, training, dataset.normalise(dataset.validation.images), dataset.validation.labels


@lru_cache(maxsize=8)
def trained(recipe: str, store: str) -> nn.Module:
    """A trained teacher, kept in the actor."""
    made = Recipe.model_validate_json(recipe)
    return load_trained(made, Store(store), key=key_of(made), dataset=load(made.data)).requires_grad_(False)


class Trial(tune.Trainable):  # type: ignore[misc]
    """One step is one epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        job = read(config["job"])
        recipe = self.recipe = Recipe.model_validate_json(job["configurations"][config["which"]])
        key = recipe.model_copy(update={"distill": None, "precision": None, "init": None}).model_dump_json()
        dataset, self.loader, self.pictures, self.answers = loaders(key, job["loader_workers"])
        store = Store(job["store"])
        init = None if recipe.init is None else store.entry(key_of(recipe.init)).weights
        self.student = initial(recipe, dataset, init).train()
        assert recipe.distill is not None
        self.teacher = trained(recipe.distill.teachers[0].model_dump_json(), job["store"])
        self.optimizer = make_optimizer(recipe.optim, self.student)
        self.quantizers = Quantizers([self.student])
        self.done = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        recipe, distill = self.recipe, self.recipe.distill
        assert distill is not None
        optim, total = recipe.optim, recipe.optim.epochs * len(self.loader)
        temperature = distill.temperature
        for images, labels in self.loader:
            fraction = self.done / total
            for group in self.optimizer.param_groups:
                group["lr"] = schedules.learning_rate(optim, fraction)
            weight = schedules.coefficient(distill.coefficient, distill.schedule, fraction)
            with torch.no_grad():
                said = self.teacher(images)
            logits = self.student(images)
            soft = F.kl_div(
                F.log_softmax(logits / temperature, 1), F.log_softmax(said / temperature, 1), reduction="batchmean", log_target=True
            )
            loss = (1 - weight) * F.cross_entropy(logits, labels) + weight * temperature**2 * soft
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.done += 1
            self.quantizers.after_step([self.done])
        self.student.eval()
        with torch.no_grad(), cached():
            correct = sum(int((self.student(part).argmax(1) == answer).sum()) for part, answer in self._validation())
        self.student.train()
        return {"val_accuracy": 100.0 * correct / len(self.answers), "done": self.done >= total}

    def _validation(self) -> Any:
        return zip(self.pictures.split(500), self.answers.split(500), strict=True)


def main() -> None:
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    job = read(sys.argv[1])
    names = list(job["configurations"])
    ray.init(address="local", num_cpus=job["workers"], include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    search = OptunaSearch(points_to_evaluate=[{"which": name} for name in names], metric="val_accuracy", mode="max", seed=0)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            tune.with_resources(Trial, {"cpu": 1}),
            param_space={"which": tune.choice(names), "job": sys.argv[1]},
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(search, job["workers"]),
                num_samples=len(names),
                reuse_actors=True,
                metric="val_accuracy",
                mode="max",
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
        ).fit()
    seconds = time.perf_counter() - began
    results = {result.config["which"]: result.metrics["val_accuracy"] for result in grid if result.metrics}
    ray.shutdown()
    print(json.dumps({"seconds": seconds, "accuracy": results, "trials": len(grid), "errors": [str(error) for error in grid.errors]}))


if __name__ == "__main__":
    from tests.benchmarks import baseline  # by its name, under which the actors find it too

    baseline.main()
