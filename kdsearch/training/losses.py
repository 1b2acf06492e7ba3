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
    """Of each image, what :func:`distillation` leaves out: −H(p_T) for ``kl``, else 0; (B, K) → (B,)."""
    return -entropy(targets) if loss.soft == "kl" else torch.zeros(len(targets), device=targets.device)


def hard_weight(loss: Loss, coefficient: float) -> float:
    """Weight of the hard term at this λ."""
    return 1.0 - coefficient if loss.hard_weight is None else loss.hard_weight


def distillation(student: Tensor, labels: Tensor, targets: Tensor, distill: Distill, coefficient: float) -> Tensor:
    """L without hints and without λ·s times :func:`soft_constant`; a term of weight 0 is not computed.

    ``student`` (B, K) logits, ``labels`` (B,), ``targets`` of :func:`soft_targets`.
    """
    loss = distill.loss
    soft = coefficient * scale(loss, distill.temperature, student.shape[1])
    result: Tensor = _Distillation.apply(
        student, labels, targets, hard_weight(loss, coefficient), soft, distill.temperature, loss.soft == "mse_logits"
    )
    return result


class _Distillation(Function):
    """hard · H(y, softmax(z)) + soft · (H(q, softmax(z/τ)), or ‖z/τ − q‖²), mean over images, with its gradient in closed form.

    Autograd over the same terms starts three times as many operations, which is most of their time on ten classes.
    The gradient of the targets, where something trains them (Apprentice A without ``detach``), is closed as well.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, labels: Tensor, targets: Tensor, hard: float, soft: float, temperature: float, squared: bool
    ) -> Tensor:
        count = len(student)
        found = gradient = of_targets = torch.zeros((), dtype=student.dtype, device=student.device)
        if hard != 0:
            logarithms = torch.log_softmax(student, 1)
            picked = labels.unsqueeze(1)
            found = logarithms.gather(1, picked).sum() * (-hard / count)
            gradient = logarithms.exp_().scatter_add_(1, picked, student.new_full((1, 1), -1.0).expand_as(picked)).mul_(hard / count)
        if soft != 0:
            scaled = student / temperature if temperature != 1 else student
            if squared:
                difference = scaled - targets
                found = found + difference.square().sum() * (soft / count)
                of_soft, of_targets = difference * (2 * soft / count / temperature), difference * (-2 * soft / count)
            else:
                logarithms = torch.log_softmax(scaled, 1)
                found = found - (logarithms * targets).sum() * (soft / count)
                of_soft = (logarithms.exp() * targets.sum(1, keepdim=True) - targets) * (soft / count / temperature)
                of_targets = logarithms * (-soft / count)
            gradient = gradient + of_soft
        ctx.save_for_backward(gradient, of_targets if ctx.needs_input_grad[2] else None)
        ctx.shape = student.shape
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient, of_targets = ctx.saved_tensors
        student = (gradient * grads[0]).expand(ctx.shape)
        return student, None, None if of_targets is None else (of_targets * grads[0]).expand(ctx.shape), None, None, None, None


def distillation_value(student: Tensor, labels: Tensor, teachers: Sequence[Tensor], distill: Distill, coefficient: float) -> Tensor:
    """The whole of L without hints, constants included; the definition the tests hold against values worked out by hand."""
    targets = soft_targets(teachers, distill.loss, distill.temperature)
    constant = soft_constant(targets, distill.loss).mean() * scale(distill.loss, distill.temperature, student.shape[1])
    return distillation(student, labels, targets, distill, coefficient) + coefficient * constant
