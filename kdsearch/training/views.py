"""The pictures of an epoch, augmented and normalised in large pieces on the device, served as batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdsearch.training.augment import AUGMENTATIONS, apply, choices
from kdsearch.training.data import DataSet, Split
from kdsearch.training.streamed import Files

PIECE_BYTES = 8 << 20
"""Float bytes prepared at a time: one piece is a whole epoch of digits, a few batches of CIFAR; it stays in the cache."""


class Views:
    """Views of the images of ``split`` in any epoch, normalised by the constants of ``dataset``."""

    def __init__(self, dataset: DataSet, split: Split, augmentation: str, seed: int, device: str) -> None:
        self._dataset, self._seed = dataset, seed
        self._name, self._augmentation = augmentation, AUGMENTATIONS[augmentation]
        self._device = device
        # Measured on 32×32 images, one CPU thread: 10 to 20% off a step of ResNet20 ×1 and ×2, 10 to 40% off an evaluation.
        self._layout = torch.channels_last if dataset.shape[0] >= 3 else None
        self.images = split.images if isinstance(split.images, Files) else split.images.to(device)
        self.numbers = split.numbers.to(device)

    def batches(self, epoch: int, order: Tensor, size: int) -> Iterator[Tensor]:
        """Images at the positions ``order`` (N,) as they look in ``epoch``: float32 (≤ size, C, H, W), the last may be smaller."""
        if isinstance(self.images, Files):
            for images in self.images.batches(order, self.numbers, size, self._name, self._seed, epoch):
                yield self._prepared(images.to(self._device, non_blocking=True))
            return
        chosen = None
        if self._augmentation is not None:
            chosen = choices(self._augmentation, self._seed, epoch, self.numbers[order])
        pixels = self.images[0].numel() * 4
        piece = max(1, PIECE_BYTES // (pixels * size)) * size
        for start in range(0, len(order), piece):
            part = torch.index_select(self.images, 0, order[start : start + piece])
            if chosen is not None and self._augmentation is not None:
                part = apply(self._augmentation, part, chosen[start : start + piece])
            yield from torch.split(self._prepared(part), size)

    def _prepared(self, images: Tensor) -> Tensor:
        normalised = self._dataset.normalise(images)
        return normalised if self._layout is None else normalised.contiguous(memory_format=self._layout)
