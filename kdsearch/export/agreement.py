"""Whether an exported model does what the trained network does, on real pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import ExportError
from kdsearch.export.student import Student

LOGITS_WITHIN, OF_LARGEST = 1e-4, 4e-6
"""How far logits may be apart; where the largest logit is above 25, this share of it, since PyTorch itself differs by as much from one
batch size to another (1.5e-4 at logits of 250)."""
SAME_TOP1 = 0.995
"""Share of pictures, where activations are quantized."""


@dataclass(frozen=True)
class Agreement:
    """How a model compares with the trained network."""

    images: int
    same: int
    """Pictures with the same top-1."""
    largest: float
    """Largest difference of a logit."""
    scale: float
    """Largest logit of the trained network."""

    def __str__(self) -> str:
        return f"the same top-1 on {self.same} of {self.images} pictures, logits within {self.largest:.1g}"


@torch.no_grad()
def compare(run: Callable[[Tensor], Any], student: Student, images: Tensor, *, batch: int = 250) -> Agreement:
    """``run`` takes (B, C, H, W) uint8 pictures and gives logits; the trained network gets the same, normalised as in training."""
    same, largest, scale = 0, 0.0, 0.0
    for part in torch.split(images, batch):
        found = np.asarray(run(part))
        expected = student.trained(student.dataset.normalise(part)).numpy()
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        difference = float(np.abs(found - expected).max())
        largest = max(largest, difference if np.isfinite(difference) else np.inf)
        scale = max(scale, float(np.abs(expected).max()))
    return Agreement(len(images), same, largest, scale)


def check(name: str, run: Callable[[Tensor], Any], student: Student, images: Tensor) -> Agreement:
    """How ``run`` agrees with the trained network.

    Raises:
        ExportError: it does not. Where weights alone are quantized, top-1 must be the same on every picture and logits within 1e-4;
            with quantized activations top-1 on 99.5%, since a change of memory layout alone takes some over a rounding edge.
    """
    found = compare(run, student, images)
    within = max(LOGITS_WITHIN, OF_LARGEST * found.scale)
    precision = student.recipe.precision
    if precision is not None and precision.activations is not None:
        if found.same < SAME_TOP1 * found.images:
            raise ExportError(f"{name} and PyTorch: {found}; at least {SAME_TOP1:.1%} must agree")
    elif found.same < found.images or found.largest > within:
        raise ExportError(f"{name} and PyTorch: {found}; all must agree, logits within {within:.1g}")
    return found
