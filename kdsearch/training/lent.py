"""Data sets that a node of a cluster lacks and the driver's machine lends, through the store's upstream.

What is lent are the arrays in memory, filed under the fingerprint of the content, so that a node's copy can never be out of date;
which fingerprint that is the node asks anew in each process. Pictures that are streamed do not travel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kdsearch.errors import DataError
from kdsearch.record.blobs import array_bytes
from kdsearch.record.files import sealed

if TYPE_CHECKING:
    from kdsearch.record.store import Store
    from kdsearch.spec.recipe import Data
    from kdsearch.training.pictures import Pictures, Source

KIND = "data"
_lender: Store | None = None


def borrow_from(store: Store) -> None:
    """Ask the upstream of ``store``, from now on, for data sets that are not on this machine."""
    global _lender
    _lender = store
    fingerprint.cache_clear()


def borrows() -> bool:
    """Whether this process is on a node that data sets are lent to."""
    return _lender is not None


@lru_cache(maxsize=8)
def fingerprint(name: str, root: str | None, image_size: int | None) -> str | None:
    """Fingerprint of the data set as the lender has it; None where it has none. Raises StoreError where it cannot be asked."""
    if _lender is None or _lender.upstream is None:
        return None
    found = _lender.upstream.fetch(f"{KIND}/{_digest(name, root, image_size)}")
    return None if found is None else found.decode()


def source(name: str, root: str | None, image_size: int | None) -> Source | None:
    """The data set out of lent arrays; None where the lender has none."""
    from kdsearch.training.pictures import Pictures, Source

    of = fingerprint(name, root, image_size)
    if of is None or _lender is None:
        return None
    blobs, stem = _lender.blobs, _stem(of, image_size)
    about = blobs.get_array(KIND, f"{stem}-about")
    if about is None:
        return None
    classes, has_validation = about.tolist()

    def pictures(part: str) -> Pictures:
        images, labels = (blobs.get_array(KIND, f"{stem}-{part}-{what}") for what in ("images", "labels"))
        if images is None or labels is None:
            raise DataError(f"{name}: its {part} pictures are not on this node, and the driver's machine has not lent them")
        return Pictures(images, np.array(labels))

    return Source(pictures("train"), pictures("validation") if has_validation else None, lambda: pictures("test"), classes)


class Lender:
    """The other side: answers for the data sets ``wanted``, read when they are asked for."""

    def __init__(self, wanted: Collection[Data]) -> None:
        self._wanted = {_digest(data.name, data.root, data.image_size): data for data in wanted}

    def answer(self, name: str) -> bytes | None:
        """What a borrower asks its upstream for, as ``data/…`` or ``blobs/data/…``; None where this machine has not got it either."""
        from kdsearch.training import data

        kind, _, rest = name.partition("/")
        try:
            if kind == KIND:
                asked = self._wanted.get(rest)
                return None if asked is None else data.fingerprint(asked).encode()
            stem, *what = rest.removeprefix(f"{KIND}/").split("-")
            for one in self._wanted.values():
                if not one.streamed and stem == _stem(data.fingerprint(one), one.image_size):
                    return _array(rest, data.opened(one), *what)
        except DataError:
            return None
        return None


def _array(place: str, found: Source, part: str, field: str = "") -> bytes | None:
    if part == "about":
        return sealed(place, array_bytes(np.array([found.classes, found.validation is not None], dtype=np.int64)))
    pictures = {"train": lambda: found.train, "validation": lambda: found.validation, "test": found.test}[part]()
    return None if pictures is None else sealed(place, array_bytes(pictures.images if field == "images" else pictures.labels))


def _digest(name: str, root: str | None, image_size: int | None) -> str:
    return hashlib.sha256(json.dumps([name, root, image_size]).encode()).hexdigest()[:32]


def _stem(fingerprint: str, image_size: int | None) -> str:
    return hashlib.sha256(f"{fingerprint} {image_size}".encode()).hexdigest()[:32]
