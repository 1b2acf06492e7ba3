"""The driver's side of :mod:`kdsearch.training.lent`: data sets that it lends to nodes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from kdsearch.errors import DataError
from kdsearch.record.blobs import array_bytes
from kdsearch.record.files import sealed
from kdsearch.spec.recipe import Data
from kdsearch.training import data
from kdsearch.training.lent import KIND, digest, stem
from kdsearch.training.pictures import Source


class Lender:
    """Answers for the data sets ``wanted``, read when they are asked for."""

    def __init__(self, wanted: Collection[Data]) -> None:
        self._wanted = {digest(one.name, one.root, one.image_size): one for one in wanted}

    def answer(self, name: str) -> bytes | None:
        """What a borrower asks its upstream for, as ``data/…`` or ``blobs/data/…``; None where this machine has not got it either."""
        kind, _, rest = name.partition("/")
        try:
            if kind == KIND:
                asked = self._wanted.get(rest)
                return None if asked is None else data.fingerprint(asked).encode()
            asked_for, *what = rest.removeprefix(f"{KIND}/").split("-")
            for one in self._wanted.values():
                if not one.streamed and asked_for == stem(data.fingerprint(one), one.image_size):
                    return _array(rest, data.opened(one), *what)
        except DataError:
            return None
        return None


def _array(place: str, found: Source, part: str, field: str = "") -> bytes | None:
    if part == "about":
        return sealed(place, array_bytes(np.array([found.classes, found.validation is not None], dtype=np.int64)))
    pictures = {"train": lambda: found.train, "validation": lambda: found.validation, "test": found.test}[part]()
    return None if pictures is None else sealed(place, array_bytes(pictures.images if field == "images" else pictures.labels))
