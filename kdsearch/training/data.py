"""Data sets as the trainer sees them: pictures as uint8 tensors in memory, split into training, validation and test.

The split is stratified by class and a pure function of (split seed, image number). Test pictures are loaded only when asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.spec.recipe import Data
from kdsearch.training import lent
from kdsearch.training.imagefolder import is_grey, listed
from kdsearch.training.pictures import Pictures, Source
from kdsearch.training.sources import open_source, source_fingerprint
from kdsearch.training.streamed import Files, files_of
from kdsearch.training.streams import hashed, stream


@dataclass(frozen=True)
class Split:
    """Pictures of one part of a data set."""

    images: Tensor | Files
    """(N, C, H, W) uint8, or where they are read from while training."""
    labels: Tensor
    """(N,) int64."""
    numbers: Tensor
    """(N,) int64: each image's number in the original set (where val/ is trained on too, its pictures follow), rising. Views and tables
    are indexed by it."""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """What tells two choices of images of one data set apart."""
        return hashlib.sha256(self.numbers.cpu().numpy().tobytes()).hexdigest()[:16]


@dataclass
class DataSet:
    """A data set, split as its :class:`~kdsearch.spec.recipe.Data` says."""

    data: Data
    classes: int
    shape: tuple[int, int, int]
    """(C, H, W)."""
    mean: tuple[float, ...]
    """Per channel, of all pictures of the original training part, pixels scaled to 0..1."""
    std: tuple[float, ...]
    train: Split
    validation: Split | None
    _load_test: Callable[[], Split]

    def test(self) -> Split:
        """The test part, read at the first call."""
        return self._load_test()

    def split(self, name: str) -> Split:
        """``train``, ``validation`` or ``test``. Raises :class:`DataError` where the data set has no such part."""
        if name == "test":
            return self.test()
        found = self.train if name == "train" else self.validation
        if found is None:
            raise DataError(f"{self.data.name}: no validation images; give data.validation a share, or evaluate_on: test")
        return found

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → float32 of mean 0 and deviation 1 per channel."""
        scale = torch.tensor([1 / (255 * std) for std in self.std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=images.device).view(1, -1, 1, 1)
        return torch.addcmul(shift, images.to(torch.float32), scale)


def load(data: Data) -> DataSet:
    """The data set of ``data``; kept in memory, since one process runs many trials on it.

    Raises :class:`DataError` where it is missing, cannot be fetched or holds a file that does not decode.
    """
    # Recipes that differ only in what changes neither the pictures nor their split share one copy in memory.
    workers = data.workers if data.streamed else 0
    measured = "test" if data.on_everything else "validation"
    return _load(data.model_copy(update={"augment": "none", "evaluate_on": measured, "workers": workers}))


@lru_cache(maxsize=8)
def _load(data: Data) -> DataSet:
    if data.streamed:
        return _streamed(data)
    source = opened(data)
    pictures, own = source.train, source.validation
    mean, std = _moments(pictures.images)
    if own is not None and data.on_everything:
        pictures, own = _joined(pictures, own), None
    labels = torch.from_numpy(pictures.labels)
    held_out, used = _parted(data, labels, has_validation=own is not None)
    validation = _whole(own) if own is not None else _chosen(pictures, held_out) if held_out.any() else None
    _, channels, height, width = pictures.images.shape

    @lru_cache(maxsize=1)
    def test() -> Split:
        return _whole(source.test())

    return DataSet(data, source.classes, (channels, height, width), mean, std, _chosen(pictures, used), validation, test)


def _streamed(data: Data) -> DataSet:
    """A folder whose pictures are decoded while training."""
    if data.name != "imagefolder":
        raise DataError(f"{data.name}: only an imagefolder can be streamed; leave data.streamed out")
    try:
        folder = listed(data.root)
    except DataError as error:
        if not lent.borrows():
            raise
        raise DataError(f"{error}; pictures that are streamed do not travel: each node needs them at this path") from None
    grey = is_grey(folder)

    def part(name: str) -> Split:
        files, labels = files_of(data.root, name, data.image_size, data.workers, grey)
        return Split(files, labels, torch.arange(len(labels)))

    pictures, labels = files_of(data.root, "train", data.image_size, data.workers, grey)
    mean, std = pictures.moments()
    own = "val" in folder.parts and not data.on_everything
    if "val" in folder.parts and data.on_everything:
        more, more_labels = files_of(data.root, "val", data.image_size, data.workers, grey)
        pictures, labels = replace(pictures, paths=pictures.paths + more.paths), torch.cat([labels, more_labels])
    held_out, used = _parted(data, labels, has_validation=own)
    splits = []
    for which in (used, held_out):
        positions = torch.nonzero(which).flatten()
        splits.append(Split(pictures.chosen(positions), labels[positions], positions))
    validation = part("val") if own else splits[1] if len(splits[1]) else None
    return DataSet(data, len(folder.classes), pictures.shape, mean, std, splits[0], validation, lambda: part("test"))


def _parted(data: Data, labels: Tensor, *, has_validation: bool) -> tuple[Tensor, Tensor]:
    """Which images of the training part are held out for validation, and which are trained on; each (N,) bool."""
    numbers = torch.arange(len(labels))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    if not has_validation and data.validation > 0:
        held_out = stratified(labels, numbers, data.validation, stream(data.split_seed, "split"))
    used = ~held_out
    if data.train_fraction < 1:
        rest = numbers[used]
        used[rest] = stratified(labels[rest], rest, data.train_fraction, stream(data.split_seed, "fraction"))
    if not bool(used.any()):
        raise DataError(f"{data.name}: no training images are left; lower data.validation or raise data.train_fraction")
    return held_out, used


@lru_cache(maxsize=4)
def _opened(name: str, root: str | None, image_size: int | None) -> Source:
    return open_source(name, root, image_size)


def opened(data: Data) -> Source:
    """The data set before it is split; one that is not streamed."""
    return _opened(data.name, data.root, data.image_size)


def fingerprint(data: Data) -> str:
    """What the data set holds, as a string: a digest of its content, never of where it lies."""
    return source_fingerprint(data.name, data.root, data.image_size)


def stratified(labels: Tensor, numbers: Tensor, share: float, seed: int) -> Tensor:
    """Choose ``share`` of each class, at least one image where the class has two; (N,) bool.

    Which ones depends on ``seed`` and the image numbers alone, not on what else is in the set.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    ranks = hashed(seed, numbers)
    for label in torch.arange(int(labels.max()) + 1):
        members = torch.nonzero(labels == label).flatten()
        count = int(share * len(members) + 0.5)
        if len(members) > 1:
            count = max(count, 1)
        chosen[members[torch.argsort(ranks[members], stable=True)[:count]]] = True
    return chosen


def _chosen(pictures: Pictures, which: Tensor) -> Split:
    positions = torch.nonzero(which).flatten()
    images = torch.from_numpy(np.ascontiguousarray(pictures.images[positions.numpy()]))
    return Split(images, torch.from_numpy(pictures.labels)[positions], positions)


def _joined(first: Pictures, second: Pictures) -> Pictures:
    return Pictures(np.concatenate([first.images, second.images]), np.concatenate([first.labels, second.labels]))


def _whole(pictures: Pictures) -> Split:
    images: Any = pictures.images
    return Split(torch.from_numpy(np.array(images)), torch.from_numpy(pictures.labels), torch.arange(len(pictures.labels)))


def _moments(images: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, pixels in 0..1, from counts of each value (exact, whatever the number of threads)."""
    means, deviations = [], []
    values = np.arange(256) / 255
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 10_000):
            counts += np.bincount(images[start : start + 10_000, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(share @ (values - mean) ** 2) ** 0.5, 1e-3))
    return tuple(means), tuple(deviations)
