"""Where pictures come from: scikit-learn's digits, CIFAR, a folder of pictures, or a user's function."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import DataError
from kdsearch.training import lent
from kdsearch.training.imagefolder import folder_fingerprint, open_folder
from kdsearch.training.pictures import Pictures, Source
from kdsearch.training.streams import stream
from kdsearch.training.user_code import user_function


def open_source(name: str, root: str | None, image_size: int | None) -> Source:
    """Read the data set ``name``, or borrow it where this is a node of a cluster that lacks it. Raises :class:`DataError`."""
    try:
        return _opened(name, root, image_size)
    except (DataError, OSError):
        borrowed = lent.source(name, root, image_size)
        if borrowed is None:
            raise
        return borrowed


def _opened(name: str, root: str | None, image_size: int | None) -> Source:
    if name == "digits":
        return _digits()
    if name in _CIFAR:
        return _cifar(name, root)
    if name == "imagefolder":
        return open_folder(root, image_size)
    return _user(name)


def source_fingerprint(name: str, root: str | None, image_size: int | None) -> str:
    """Digest of the content of the data set ``name``, test part included; where it is borrowed, the lender's."""
    try:
        return _fingerprint(name, root)
    except (DataError, OSError):
        borrowed = lent.fingerprint(name, root, image_size)
        if borrowed is None:
            raise
        return borrowed


def _fingerprint(name: str, root: str | None) -> str:
    if name in _CIFAR:  # torchvision checks the files against these sums whenever it reads them
        return f"{name}-{_CIFAR[name][1]}"
    if name == "imagefolder":
        return folder_fingerprint(root)
    return _array_fingerprint(name)


@lru_cache(maxsize=8)
def _array_fingerprint(name: str) -> str:
    source = _digits() if name == "digits" else _user(name)
    digest = hashlib.sha256()
    for pictures in (source.train, source.validation, source.test()):
        if pictures is not None:
            digest.update(repr(pictures.images.shape).encode())
            digest.update(pictures.images.tobytes())
            digest.update(pictures.labels.tobytes())
    return digest.hexdigest()


_DIGITS_TEST = 297


@lru_cache(maxsize=1)
def _digits() -> Source:
    """scikit-learn's 1,797 digits, 8×8 grey in 17 shades. Its 297 test images are a fixed stratified choice; 1,500 are left."""
    package = find_spec("sklearn")  # its file alone: importing scikit-learn takes 2 s, in every worker
    assert package is not None and package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = (table[:, :-1].reshape(-1, 1, 8, 8) * 15).astype(np.uint8)  # 0..16 to 0..240
    labels = table[:, -1].astype(np.int64)
    # The share of each class, rounded down, then one more of the classes with the largest remainders.
    numbers = np.arange(len(labels))
    ranks = np.array([stream(int(number), "split") for number in numbers])
    counts = np.bincount(labels) * _DIGITS_TEST / len(labels)
    take = counts.astype(int)
    take[np.argsort(take - counts, kind="stable")[: _DIGITS_TEST - take.sum()]] += 1
    test = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(take):
        members = numbers[labels == label]
        test[members[np.argsort(ranks[members], kind="stable")[:count]]] = True
    held = Pictures(images[test], labels[test])
    return Source(Pictures(images[~test], labels[~test]), None, lambda: held, 10)


_CIFAR: dict[str, tuple[str, str]] = {
    "cifar10": ("CIFAR10", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("CIFAR100", "eb9058c3a382ffc7106e4002c42a8d85"),
}
"""Name → (torchvision's class, MD5 of the archive it fetches)."""


def data_folder(root: str | None) -> Path:
    """Folder of downloaded data sets: ``root``, else ``KDSEARCH_DATA``, else ``data`` where the command runs."""
    return Path(root or os.environ.get("KDSEARCH_DATA") or "data")


def _cifar(name: str, root: str | None) -> Source:
    from torchvision import datasets

    folder = data_folder(root)
    make = getattr(datasets, _CIFAR[name][0])

    def part(train: bool) -> Pictures:
        try:
            with contextlib.redirect_stdout(None):
                try:
                    found = make(str(folder), train=train, download=False)
                except RuntimeError:
                    # On a cluster the driver's machine fetches it, once.
                    found = make(str(folder), train=train, download=not lent.borrows())
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{name}: not in {folder.absolute()} and cannot be downloaded ({error}); put the files there, "
                "or name their folder as data.root"
            ) from error
        images = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))
        return Pictures(images, np.asarray(found.targets, dtype=np.int64))

    return Source(part(train=True), None, lambda: part(train=False), 10 if name == "cifar10" else 100)


def _user(name: str) -> Source:
    """A user's function returns ``train_images, train_labels, test_images, test_labels``: arrays (N, C, H, W) uint8 and (N,)."""
    given: Any = user_function(name)()
    try:
        train_images, train_labels, test_images, test_labels = given
        parts = [_checked(name, train_images, train_labels), _checked(name, test_images, test_labels)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: must return train_images, train_labels, test_images, test_labels ({error})") from error
    classes = int(max(part.labels.max() for part in parts)) + 1
    return Source(parts[0], None, lambda: parts[1], classes)


def _checked(name: str, images: Any, labels: Any) -> Pictures:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"{name}: images must be uint8 of shape (N, C, H, W), not {images.dtype} of shape {images.shape}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0:
        raise DataError(f"{name}: labels must be {len(images)} whole numbers from 0, not {labels.dtype} of shape {labels.shape}")
    return Pictures(images, labels.astype(np.int64))
