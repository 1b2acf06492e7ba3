"""Accuracy and loss of a network on a split of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import DataSet, load
from kdsearch.training.keys import key_of
from kdsearch.training.networks import autocast, load_trained
from kdsearch.training.quantizers.base import cached
from kdsearch.training.views import Views

PIXELS = 500 * 32 * 32
"""Pixels of a batch; 100 to 2,000 images."""


@dataclass(frozen=True)
class Score:
    """What a network does on a split."""

    loss: float
    """Mean cross-entropy with the true labels, nats."""
    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.correct / self.count


@torch.no_grad()
def score(model: nn.Module, dataset: DataSet, split: str, *, device: str, dtype: str) -> Score:
    """Evaluate ``model`` on a split; its mode is left as it was. One synchronisation with the device."""
    part = dataset.split(split)
    labels = part.labels.to(device)
    views = Views(dataset, part, "none", 0, device)
    loss = torch.zeros((), device=device, dtype=torch.float64)
    correct = torch.zeros((), device=device, dtype=torch.int64)
    was_training, start = model.training, 0
    batch = min(2000, max(100, PIXELS // (dataset.shape[1] * dataset.shape[2])))
    model.eval()
    try:
        with cached(), autocast(device, dtype):
            for images in views.batches(0, torch.arange(len(part), device=device), batch):
                logits = model(images).float()
                answers = labels[start : start + len(images)]
                loss += F.cross_entropy(logits, answers, reduction="sum")
                correct += (logits.argmax(1) == answers).sum()
                start += len(images)
    finally:
        model.train(was_training)
    return Score(float(loss) / len(part), int(correct), len(part))


def evaluate(recipe: Recipe, store: Store, split: str = "test", *, device: str = "cpu") -> dict[str, float]:
    """Measure the trained network of ``recipe`` on ``train``, ``validation`` or ``test``: accuracy in percent, loss in nats, counts."""
    dataset = load(recipe.data)
    model = load_trained(recipe, store, key=key_of(recipe), dataset=dataset, device=device)
    found = score(model, dataset, split, device=device, dtype=recipe.optim.dtype)
    prefix = "val" if split == "validation" else split
    return {f"{prefix}_accuracy": found.accuracy, f"{prefix}_loss": found.loss, "correct": found.correct, "count": found.count}
