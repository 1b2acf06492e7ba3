"""Augmentation as a pure function of (stream seed, epoch, image number), in batches on tensors of any device.

An image's view does not depend on its batch, so trials that share a seed see the same views, and a teacher's answer to a view
can be computed once and shared (see :mod:`kdsearch.training.teacher_outputs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdsearch.training.streams import hashed, stream

VERSION = 1
"""Raised whenever a view changes; part of the key of teacher tables."""


@dataclass(frozen=True)
class Augmentation:
    """Zero padding by ``pad`` pixels, a random crop back to the original size, and perhaps a random horizontal flip."""

    pad: int
    flip: bool

    @property
    def views(self) -> int:
        """Number of different views of an image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop_flip": Augmentation(pad=4, flip=True),
    "crop": Augmentation(pad=4, flip=False),
    "shift": Augmentation(pad=1, flip=False),
}


def choices(augmentation: Augmentation, seed: int, epoch: int, numbers: Tensor) -> Tensor:
    """The view of each image: (N, 3) int64 of vertical offset, horizontal offset (0 to 2·pad) and flip (0 or 1).

    ``numbers``: (N,) int64, the images' numbers in the original set.
    """
    bits = hashed(stream(seed, "augment", epoch), numbers)
    span = 2 * augmentation.pad + 1
    # 20 bits for each offset: the modulo is then uneven by less than 1e-5.
    down = ((bits >> 2) & 0xFFFFF) % span
    right = ((bits >> 22) & 0xFFFFF) % span
    flip = (bits >> 43) & 1 if augmentation.flip else torch.zeros_like(bits)
    return torch.stack([down, right, flip], dim=1)


def apply(augmentation: Augmentation, images: Tensor, chosen: Tensor) -> Tensor:
    """Views of ``images`` (B, C, H, W), uint8 or float, by the rows of ``chosen`` (B, 3); same shape and dtype."""
    height, width = images.shape[-2:]
    pad = augmentation.pad
    padded = F.pad(images, (pad, pad, pad, pad))
    # Every crop of an image as a view, (B, C, 2·pad+1, 2·pad+1, H, W): picking one copies whole rows.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    which = torch.arange(len(images), device=images.device)
    views = crops[which, :, chosen[:, 0], chosen[:, 1]]
    if augmentation.flip:
        views = torch.where(chosen[:, 2].bool()[:, None, None, None], views.flip(-1), views)
    return views
