"""Pictures decoded while training, for folders that do not fit in memory (ImageNet).

A picture's view is still a pure function of (stream seed, epoch, image number): its random numbers start from that alone. The
transforms are torchvision's usual ones for ImageNet: a random resized crop (and flip) to train, a centre crop of 7/8 of the shorter
side otherwise. What a teacher says about them is not kept: a table would take gigabytes an epoch, so teachers run live.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdsearch.errors import DataError
from kdsearch.training.imagefolder import Folder, listed, opened
from kdsearch.training.streams import stream

DEFAULT_SIDE = 224
_SAMPLED = 2_000
_MIDDLE = 7 / 8


@dataclass(frozen=True)
class Files:
    """Pictures that are read when they are needed."""

    paths: tuple[Path, ...]
    side: int
    grey: bool
    workers: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture as the network sees it."""
        return (1 if self.grey else 3, self.side, self.side)

    def chosen(self, positions: Tensor) -> Files:
        """The pictures at ``positions``."""
        return Files(tuple(self.paths[position] for position in positions.tolist()), self.side, self.grey, self.workers)

    def batches(self, order: Tensor, numbers: Tensor, size: int, augmentation: str, seed: int, epoch: int) -> Iterator[Tensor]:
        """Pictures at the positions ``order``, uint8 (≤ size, C, side, side), decoded by ``workers`` processes."""
        pictures = _Decoded(self, numbers.tolist(), augmentation, seed, epoch)
        chunks = [chunk.tolist() for chunk in torch.split(order.cpu(), size)]
        loader: DataLoader[Tensor] = DataLoader(
            pictures, batch_sampler=chunks, num_workers=self.workers, prefetch_factor=2 if self.workers else None
        )
        yield from loader

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel, pixels in 0..1, from up to 2,000 pictures spread over the set."""
        positions = torch.linspace(0, len(self) - 1, min(_SAMPLED, len(self))).round().long()
        total, squares, count = torch.zeros(self.shape[0]), torch.zeros(self.shape[0]), 0
        for images in self.batches(positions, torch.arange(len(self)), 64, "none", 0, 0):
            values = images.double().div(255).transpose(0, 1).flatten(1)
            total, squares, count = total + values.sum(1), squares + values.square().sum(1), count + values.shape[1]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1e-6).sqrt()
        return tuple(mean.tolist()), tuple(deviation.tolist())


class _Decoded(Dataset[Tensor]):
    """Views of pictures in one epoch; runs in the decoding processes."""

    def __init__(self, files: Files, numbers: list[int], augmentation: str, seed: int, epoch: int) -> None:
        from torchvision.transforms import v2

        self._files, self._numbers, self._seed, self._epoch = files, numbers, seed, epoch
        side = files.side
        if augmentation == "none":
            self._transform = v2.Compose([v2.Resize(round(side / _MIDDLE), antialias=True), v2.CenterCrop(side)])
        else:
            flip = [v2.RandomHorizontalFlip()] if augmentation == "crop_flip" else []
            self._transform = v2.Compose([v2.RandomResizedCrop(side, antialias=True), *flip])

    def __getitem__(self, position: int) -> Tensor:
        path = self._files.paths[position]
        with opened(path) as image:
            try:
                picture = image.convert("L" if self._files.grey else "RGB")
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(f"{path}: is not a picture that decodes ({error}); mend or remove it") from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self._seed, "augment", self._epoch, self._numbers[position]))
            array = np.array(self._transform(picture), dtype=np.uint8)
        tensor = torch.from_numpy(array)
        return tensor[None] if self._files.grey else tensor.permute(2, 0, 1).contiguous()

    def __len__(self) -> int:
        return len(self._files)


def files_of(root: str | None, part: str, side: int | None, workers: int, grey: bool) -> tuple[Files, Tensor]:
    """Pictures of ``train``, ``val`` or ``test`` and their labels (N,)."""
    folder: Folder = listed(root)
    if part not in folder.parts:
        raise DataError(f"{folder.root}: has no {part}/ folder; expected {part}/<class>/<pictures>")
    listing = folder.parts[part]
    return Files(listing.files, side or DEFAULT_SIDE, grey, workers), torch.tensor(listing.labels)
