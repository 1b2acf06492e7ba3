"""Data sets that a node of a cluster lacks and the driver's machine lends, through the store's upstream.

What is lent are the arrays in memory, filed under the fingerprint of the content, so that a node's copy can never be out of date;
which fingerprint that is the node asks anew in each process. Pictures that are streamed do not travel.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kdsearch.errors import DataError

if TYPE_CHECKING:
    from kdsearch.record.store import Store
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
    found = _lender.upstream.fetch(f"{KIND}/{digest(name, root, image_size)}")
    return None if found is None else found.decode()


def source(name: str, root: str | None, image_size: int | None) -> Source | None:
    """The data set out of lent arrays; None where the lender has none."""
    from kdsearch.training.pictures import Pictures, Source

    of = fingerprint(name, root, image_size)
    if of is None or _lender is None:
        return None
    blobs, begins = _lender.blobs, stem(of, image_size)
    about = blobs.get_array(KIND, f"{begins}-about")
    if about is None:
        return None
    classes, has_validation = about.tolist()

    def pictures(part: str) -> Pictures:
        images, labels = (blobs.get_array(KIND, f"{begins}-{part}-{what}") for what in ("images", "labels"))
        if images is None or labels is None:
            raise DataError(f"{name}: its {part} pictures are not on this node, and the driver's machine has not lent them")
        return Pictures(images, np.array(labels))

    return Source(pictures("train"), pictures("validation") if has_validation else None, lambda: pictures("test"), classes)


def digest(name: str, root: str | None, image_size: int | None) -> str:
    """Under which name a borrower asks for a data set's fingerprint."""
    return hashlib.sha256(json.dumps([name, root, image_size]).encode()).hexdigest()[:32]


def stem(fingerprint: str, image_size: int | None) -> str:
    """Beginning of the names of a data set's arrays."""
    return hashlib.sha256(f"{fingerprint} {image_size}".encode()).hexdigest()[:32]
