"""An epoch of training, of one network or of several together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.spec.recipe import Recipe
from kdsearch.training import schedules
from kdsearch.training.guidance import Guidance
from kdsearch.training.losses import Terms, hard_labels, weighted
from kdsearch.training.networks import autocast
from kdsearch.training.optimization import Together
from kdsearch.training.quantizers.base import Quantizers
from kdsearch.training.stacked import Stack
from kdsearch.training.streams import order, stream
from kdsearch.training.views import Views


@dataclass
class Training:
    """A network in training."""

    recipe: Recipe
    model: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: Sequence[Tensor]
    """All that the optimizer changes, those of a co-trained network and of hints too."""
    guidance: Guidance | None
    """None: hard labels alone."""
    views: Views
    labels: Tensor
    """(N,) int64, of the training images."""
    device: str
    stack: int
    """Networks of this kind that are best trained together (:func:`~kdsearch.training.stacked.stack_size`)."""

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.labels) // self.recipe.optim.batch_size)

    @cached_property
    def kind(self) -> tuple[Any, ...] | None:
        """Networks of the same kind train as one stack; None: this one trains by itself."""
        if not self.stack:
            return None
        squared = self.recipe.distill is not None and self.recipe.distill.loss.soft == "mse_logits"
        shape = tuple(self.views.images.shape[1:])
        return self.recipe.model.model_dump_json(), shape, self.recipe.optim.batch_size, len(self.labels), squared


@dataclass
class Epoch:
    """An epoch of a network; :func:`run` does its steps."""

    training: Training
    number: int
    """From 1."""
    loss: float = float("nan")
    """Mean over the images, once it has been run."""
    coefficient: float = 0.0
    """Of the last step."""
    learning_rate: float = 0.0
    seconds: float = 0.0
    """This network's share."""

    def __post_init__(self) -> None:
        began = time.perf_counter()
        training, optim = self.training, self.training.recipe.optim
        self._done = (self.number - 1) * training.batches
        self._steps = optim.epochs * training.batches
        self._order = order(training.recipe.seed, self.number, training.views.numbers)
        self._labels = torch.split(training.labels[self._order], optim.batch_size)
        if training.guidance is not None:
            training.guidance.begin(self.number, self._order, optim.batch_size)
        self.seconds = time.perf_counter() - began

    def batches(self) -> Iterator[Tensor]:
        """Normalised images, (B, C, H, W) each, the last may be fewer."""
        return self.training.views.batches(self.number, self._order, self.training.recipe.optim.batch_size)

    def progress(self, index: int) -> float:
        """Fraction of the whole training before a step of this epoch."""
        return (self._done + index) / self._steps

    def before(self, index: int) -> None:
        """What is set before each step."""
        training = self.training
        fraction = self.progress(index)
        self.learning_rate = schedules.learning_rate(training.recipe.optim, fraction)
        for group in training.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if training.guidance is not None:
            distill = training.guidance.distill
            self.coefficient = schedules.coefficient(distill.coefficient, distill.schedule, fraction)

    def terms(self, index: int, images: Tensor) -> Terms:
        """What the network's logits for a batch are held against."""
        labels, guidance = self._labels[index], self.training.guidance
        return hard_labels(labels) if guidance is None else guidance.terms(index, images, labels, self.coefficient)

    def clip(self) -> None:
        """Before the optimizer's step, once gradients are there."""
        most = self.training.recipe.optim.gradient_clip
        if most is not None:
            nn.utils.clip_grad_norm_(self.training.parameters, most)

    @property
    def done(self) -> int:
        """Steps before this epoch."""
        return self._done

    def end(self, total: Tensor) -> None:
        """After the last step; ``total``: the losses of all images. Waits for the device."""
        guidance = self.training.guidance
        if guidance is not None:
            total = total + guidance.constant()
        self.loss = float(total) / len(self.training.labels)


def backward(losses: Tensor, terms: Sequence[Terms]) -> None:
    """Gradients of each network's loss, (N,), and of what is added to it."""
    more = [one.more for one in terms if one.more is not None and one.more.requires_grad]
    torch.autograd.backward([losses, *more], [torch.ones_like(losses), *map(torch.ones_like, more)])


def run(epochs: Sequence[Epoch]) -> None:
    """All steps of ``epochs``: one of a network by itself, or several of one kind (:attr:`Training.kind`)."""
    began = time.perf_counter()
    trainings = [epoch.training for epoch in epochs]
    first, models = trainings[0], [training.model for training in trainings]
    for model in models:
        if not model.training:
            model.train()
    # Only a network with random layers of its own (dropout) draws from this; restarted every epoch so that resuming is exact.
    torch.manual_seed(stream(first.recipe.seed, "epoch", epochs[0].number))
    quantizers = Quantizers(models)
    staged = any(training.recipe.precision is not None and training.recipe.precision.stages for training in trainings)
    stack = Stack(models) if first.stack else None
    optimizer = Together([(epoch.training.optimizer, (epoch.number, epoch.training.recipe.optim)) for epoch in epochs])
    totals = torch.zeros(len(epochs), device=first.device)
    for index, images in enumerate(zip(*(epoch.batches() for epoch in epochs), strict=True)):
        for epoch in epochs:
            epoch.before(index)
        if staged:
            quantizers.set_progress([epoch.progress(index) for epoch in epochs])
        quantizers.quantize()
        if stack is not None:
            logits = stack.logits(images)
        else:
            with autocast(first.device, first.recipe.optim.dtype):
                logits = first.model(images[0]).float().unsqueeze(0)
        terms = [epoch.terms(index, of_one) for epoch, of_one in zip(epochs, images, strict=True)]
        losses = weighted(logits, terms)
        backward(losses, terms)
        for epoch in epochs:
            epoch.clip()
        optimizer.step()
        quantizers.after_step([epoch.done + index + 1 for epoch in epochs])
        totals += losses.detach() * len(images[0])
        for total, one in zip(totals, terms, strict=True):
            if one.more is not None:
                total += one.more.detach() * len(images[0])
    if stack is not None:
        stack.close()
    for epoch, total in zip(epochs, totals, strict=True):
        epoch.end(total)
    seconds = (time.perf_counter() - began) / len(epochs)
    for epoch in epochs:
        epoch.seconds += seconds
