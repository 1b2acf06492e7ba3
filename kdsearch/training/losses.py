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

import torch
import torch.nn.functional as F
from torch import Tensor

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


def soft_term(student: Tensor, targets: Tensor, loss: Loss, temperature: float) -> Tensor:
    """The soft term's part that moves with the student, sum over classes and mean over images, without :func:`scale`.

    For ``kl`` the teacher's negative entropy, which no gradient sees, is left to :func:`soft_constant`.
    """
    scaled = student / temperature if temperature != 1 else student
    if loss.soft == "mse_logits":
        return F.mse_loss(scaled, targets, reduction="sum") / len(student)
    return F.cross_entropy(scaled, targets)


def soft_constant(targets: Tensor, loss: Loss) -> Tensor:
    """Of each image, what :func:`soft_term` leaves out: −H(p_T) for ``kl``, else 0; (B, K) → (B,)."""
    return -entropy(targets) if loss.soft == "kl" else torch.zeros(len(targets), device=targets.device)


def hard_weight(loss: Loss, coefficient: float) -> float:
    """Weight of the hard term at this λ."""
    return 1.0 - coefficient if loss.hard_weight is None else loss.hard_weight


def distillation(student: Tensor, labels: Tensor, targets: Tensor, distill: Distill, coefficient: float) -> Tensor:
    """L without hints and without λ·s times :func:`soft_constant`; a term of weight 0 is not computed.

    ``student`` (B, K) logits, ``labels`` (B,), ``targets`` of :func:`soft_targets`.
    """
    loss, terms = distill.loss, []
    hard = hard_weight(loss, coefficient)
    if hard != 0:
        terms.append(F.cross_entropy(student, labels) * hard)
    if coefficient != 0:
        factor = coefficient * scale(loss, distill.temperature, student.shape[1])
        terms.append(soft_term(student, targets, loss, distill.temperature) * factor)
    return sum(terms[1:], terms[0]) if terms else student.sum() * 0.0


def distillation_value(student: Tensor, labels: Tensor, teachers: Sequence[Tensor], distill: Distill, coefficient: float) -> Tensor:
    """The whole of L without hints, constants included; the definition the tests hold against values worked out by hand."""
    targets = soft_targets(teachers, distill.loss, distill.temperature)
    constant = soft_constant(targets, distill.loss).mean() * scale(distill.loss, distill.temperature, student.shape[1])
    return distillation(student, labels, targets, distill, coefficient) + coefficient * constant
