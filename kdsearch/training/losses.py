"""Losses of distillation, each with its convention written out.

Over a batch of B images and K classes, y the labels, z_S and z_T the student's and the teacher's logits, p = softmax(z/τ)::

    L = h · H(y, softmax(z_S)) + λ · s · soft + Σ hints

* ``h``: 1−λ, or ``hard_weight``. The hard term is never softened, and always a mean over images.
* ``soft``: ``cross_entropy`` H(p_T, p_S); ``kl`` KL(p_T ‖ p_S), the same gradient; ``mse_logits`` ‖(z_T−z_S)/τ‖².
* ``s``: τ² with ``temperature_squared`` (Hinton, Vinyals, Dean 2015; then the gradient keeps its size as τ grows), else 1 (Shin et al.
  Eq. 3). With it, ``mse_logits`` is the plain squared distance of logits.
* ``batch_mean``: sum over classes, mean over images. ``element_mean``: mean over both, so K times weaker.
* Several teachers: the mean of their softened probabilities (Shin et al. Table 5), or of their logits for ``mse_logits``.
* Co-training (Apprentice): α·H(y, p_T) is added for the co-trained network, and p_T of the soft term is that network's now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kdsearch.spec.recipe import Distill, Loss


def soft_targets(teachers: Sequence[Tensor], loss: Loss, temperature: float) -> Tensor:
    """What the soft term compares with: (B, K) softened probabilities, or scaled logits for ``mse_logits``, averaged over teachers.

    ``teachers``: logits, each (B, K), of any float type; computed in float32 at least.
    """
    softened = [logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature for logits in teachers]
    if loss.soft != "mse_logits":
        softened = [torch.softmax(logits, dim=1) for logits in softened]
    return softened[0] if len(softened) == 1 else torch.stack(softened).mean(0)


def entropy(probabilities: Tensor) -> Tensor:
    """H(p) in nats of each row; (B, K) → (B,)."""
    each: Tensor = torch.special.entr(probabilities)
    return each.sum(1)


def scale(loss: Loss, temperature: float, classes: int) -> float:
    """Factor on the soft term summed over classes and averaged over images: s, and 1/K for ``element_mean``."""
    factor = temperature**2 if loss.temperature_squared else 1.0
    return factor / classes if loss.reduction == "element_mean" else factor


def soft_constant(targets: Tensor, loss: Loss) -> Tensor:
    """Of each image, what :func:`distilled` leaves out: −H(p_T) for ``kl``, else 0; (B, K) → (B,)."""
    return -entropy(targets) if loss.soft == "kl" else torch.zeros(len(targets), device=targets.device)


def hard_weight(loss: Loss, coefficient: float) -> float:
    """Weight of the hard term at this λ."""
    return 1.0 - coefficient if loss.hard_weight is None else loss.hard_weight


@dataclass(frozen=True)
class Terms:
    """What the logits of one network for a batch of B images and K classes are held against."""

    labels: Tensor
    """(B,) int64."""
    hard: float
    """Weight h of the hard term."""
    soft: float = 0.0
    """Weight λ·s of the soft term."""
    temperature: float = 1.0
    squared: bool = False
    """Whether the soft term is ``mse_logits``."""
    targets: Tensor | None = None
    """(B, K), of :func:`soft_targets`; None: no soft term."""
    more: Tensor | None = None
    """Added to the loss, whatever the logits: hints, a co-trained network's own loss."""


def hard_labels(labels: Tensor) -> Terms:
    """Cross-entropy with the labels, and nothing else."""
    return Terms(labels, hard=1.0)


def distilled(labels: Tensor, targets: Tensor, distill: Distill, coefficient: float) -> Terms:
    """L without hints and without λ·s times :func:`soft_constant`."""
    loss = distill.loss
    soft = coefficient * scale(loss, distill.temperature, targets.shape[1])
    return Terms(labels, hard_weight(loss, coefficient), soft, distill.temperature, loss.soft == "mse_logits", targets)


def weighted(logits: Tensor, terms: Sequence[Terms]) -> Tensor:
    """Loss, without ``more``, of each of N networks with ``logits`` (N, B, K): (N,). All ``squared``, or none.

    A term that has no weight in any of them is not computed. What comes out for a network does not depend on the others.
    """
    count = logits.shape[1]
    labels = torch.stack([one.labels for one in terms]).unsqueeze(2)
    rows = [(one.hard / count, one.soft / count, one.soft / count / one.temperature, one.temperature) for one in terms]
    weights = torch.tensor(rows, dtype=logits.dtype, device=logits.device).view(len(terms), 4, 1, 1)
    targets = None
    if any(one.soft for one in terms):
        targets = torch.stack([logits.new_zeros(logits.shape[1:]) if one.targets is None else one.targets for one in terms])
    result: Tensor = _Weighted.apply(logits, labels, targets, weights, any(one.hard for one in terms), terms[0].squared)
    return result


def distillation(student: Tensor, labels: Tensor, targets: Tensor, distill: Distill, coefficient: float) -> Tensor:
    """L of one network, without hints and without λ·s times :func:`soft_constant`.

    ``student`` (B, K) logits, ``labels`` (B,), ``targets`` of :func:`soft_targets`.
    """
    return weighted(student.unsqueeze(0), [distilled(labels, targets, distill, coefficient)])[0]


class _Weighted(Function):
    """hard · H(y, softmax(z)) + soft · (H(q, softmax(z/τ)), or ‖z/τ − q‖²), mean over images, with its gradient in closed form.

    Autograd over the same terms starts three times as many operations, which is most of their time on ten classes.
    The gradient of the targets, where something trains them (Apprentice A without ``detach``), is closed as well.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, labels: Tensor, targets: Tensor | None, weights: Tensor, hard: bool, squared: bool) -> Tensor:
        of_hard, of_soft, of_scaled, temperature = weights.unbind(1)
        found = student.new_zeros(len(student))
        gradient = of_targets = None
        if hard:
            logarithms = torch.log_softmax(student, 2)
            found = found - logarithms.gather(2, labels).sum((1, 2)) * of_hard.flatten()
            gradient = logarithms.exp_().scatter_add_(2, labels, student.new_full((1, 1, 1), -1.0).expand_as(labels)).mul_(of_hard)
        if targets is not None:
            scaled = student / temperature
            if squared:
                difference = scaled - targets
                found = found + difference.square().sum((1, 2)) * of_soft.flatten()
                softly, of_targets = difference * (2 * of_scaled), difference * (-2 * of_soft)
            else:
                logarithms = torch.log_softmax(scaled, 2)
                found = found - (logarithms * targets).sum((1, 2)) * of_soft.flatten()
                of_targets = logarithms * -of_soft if ctx.needs_input_grad[2] else None
                softly = (logarithms.exp_() * targets.sum(2, keepdim=True)).sub_(targets).mul_(of_scaled)
            gradient = softly if gradient is None else gradient.add_(softly)
        ctx.save_for_backward(torch.zeros_like(student) if gradient is None else gradient, of_targets)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient, of_targets = ctx.saved_tensors
        factor = grads[0].view(-1, 1, 1)
        return gradient * factor, None, None if of_targets is None else of_targets * factor, None, None, None


def distillation_value(student: Tensor, labels: Tensor, teachers: Sequence[Tensor], distill: Distill, coefficient: float) -> Tensor:
    """The whole of L without hints, constants included; the definition the tests hold against values worked out by hand."""
    targets = soft_targets(teachers, distill.loss, distill.temperature)
    constant = soft_constant(targets, distill.loss).mean() * scale(distill.loss, distill.temperature, student.shape[1])
    return distillation(student, labels, targets, distill, coefficient) + coefficient * constant
