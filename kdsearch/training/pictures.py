"""Pictures in memory, and a data set before it is split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""

    images: Bytes
    labels: Labels


@dataclass(frozen=True)
class Source:
    """A data set before it is split; ``test`` reads the test part."""

    train: Pictures
    validation: Pictures | None
    test: Callable[[], Pictures]
    classes: int
