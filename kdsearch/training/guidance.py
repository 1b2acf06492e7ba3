"""Where a step's soft labels come from: tables, live teachers, or a network trained jointly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.spec.recipe import Distill
from kdsearch.training.data import DataSet
from kdsearch.training.hints import Hints
from kdsearch.training.losses import Terms, distilled, scale, soft_constant, soft_targets
from kdsearch.training.networks import autocast
from kdsearch.training.teacher_outputs import Teacher


class Guidance:
    """Distillation of one run: :meth:`begin` an epoch, then :meth:`terms` for each of its batches, then its :meth:`constant`."""

    def __init__(
        self,
        distill: Distill,
        teachers: Sequence[Teacher],
        cotrained: nn.Module | None,
        hints: Hints | None,
        dataset: DataSet,
        augmentation: str,
        seed: int,
        *,
        live: bool,
        device: str,
        dtype: str,
    ) -> None:
        self.distill, self.teachers, self.cotrained, self.hints = distill, tuple(teachers), cotrained, hints
        self.live = live or hints is not None
        self._dataset, self._augmentation, self._seed = dataset, augmentation, seed
        self._device, self._dtype = device, dtype
        self._factor = scale(distill.loss, distill.temperature, dataset.classes)
        self._targets: Sequence[Tensor] = ()
        self._constants = torch.zeros(0, device=device)
        self._coefficients: list[float] = []

    def begin(self, epoch: int, order: Tensor, size: int) -> None:
        """Soften the teachers' answers for the whole epoch, in its order, so that a step only takes its slice."""
        if self.cotrained is not None or self.live:
            return
        answers = [teacher.epoch(self._dataset, self._augmentation, self._seed, epoch)[order] for teacher in self.teachers]
        targets = soft_targets(answers, self.distill.loss, self.distill.temperature)
        # Of each batch, the sum of what its images' losses leave out.
        ends = [*range(size, len(order), size), len(order)]
        sums = soft_constant(targets, self.distill.loss).double().cumsum(0)[torch.tensor(ends, device=self._device) - 1]
        self._constants = torch.diff(sums, prepend=sums.new_zeros(1))
        self._coefficients = []
        self._targets = torch.split(targets, size)

    def terms(self, step: int, images: Tensor, labels: Tensor, coefficient: float) -> Terms:
        """What the student's logits for the normalised ``images`` of the epoch's batch ``step`` are held against.

        With hints, after the student has seen the images.
        """
        if self.cotrained is None and not self.live:
            self._coefficients.append(coefficient)
            return distilled(labels, self._targets[step], self.distill, coefficient)
        if self.cotrained is not None:
            with autocast(self._device, self._dtype):
                answers = [self.cotrained(images).float()]
            heard = [answer.detach() for answer in answers] if self._detached else answers
        else:
            heard = [teacher.logits(images) for teacher in self.teachers]
        targets = soft_targets(heard, self.distill.loss, self.distill.temperature)
        more = soft_constant(targets, self.distill.loss).mean() * (coefficient * self._factor)
        if self.cotrained is not None and self.distill.cotrain is not None:
            more = more + F.cross_entropy(answers[0], labels) * self.distill.cotrain.hard_weight
        if self.hints is not None:
            more = more + self.hints(detach=self._detached)
        return replace(distilled(labels, targets, self.distill, coefficient), more=more)

    @property
    def _detached(self) -> bool:
        return self.distill.cotrain is None or self.distill.cotrain.detach

    def constant(self) -> Tensor:
        """Sum over the epoch's images of what their losses left out because no gradient sees it (the teachers' entropy of KL)."""
        if not self._coefficients:
            return torch.zeros((), device=self._device)
        weights = torch.tensor(self._coefficients, dtype=torch.float64, device=self._device) * self._factor
        return (weights * self._constants).sum().float()
