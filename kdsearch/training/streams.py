"""Random numbers as pure functions of counters: which number comes out depends on what it is for, not on what was drawn before.

So any process, on any batch composition and after any interruption, sees the same view of image i in epoch e, and the same
order of images. The mixer is splitmix64 (Steele, Lea, Flood 2014) on 64-bit integers, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB

PURPOSES = ("init", "order", "augment", "epoch", "split", "fraction", "hints")
"""What streams are drawn for; appended to, never reordered, since the place is part of the stream."""


def _signed(value: int) -> int:
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


def _mix_int(value: int) -> int:
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _M1) & _MASK
    value = ((value ^ (value >> 27)) * _M2) & _MASK
    return value ^ (value >> 31)


def stream(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit number from a seed, what it is for, and counters such as the epoch."""
    value = _mix_int(seed)
    for part in (PURPOSES.index(purpose), *counters):
        # Not symmetric in what is so far and what is added: seed 0 for purpose 1 must differ from seed 1 for purpose 0.
        value = _mix_int(value * _M1 + part)
    return value >> 1


def _shifted(values: Tensor, by: int) -> Tensor:
    # A logical shift; torch's >> on int64 copies the sign.
    return (values >> by) & ((1 << (64 - by)) - 1)


def hashed(seed: int, counters: Tensor) -> Tensor:
    """Independent 64-bit numbers, one for each of ``counters`` (int64, any shape), as int64 on the same device."""
    values = counters * _signed(_GAMMA) + _signed(_mix_int(seed))
    values = (values ^ _shifted(values, 30)) * _signed(_M1)
    values = (values ^ _shifted(values, 27)) * _signed(_M2)
    return values ^ _shifted(values, 31)


def order(seed: int, epoch: int, numbers: Tensor) -> Tensor:
    """Order of the images in an epoch: positions (N,) int64 into ``numbers``, the images' numbers in the original set."""
    return torch.argsort(hashed(stream(seed, "order", epoch), numbers), stable=True)
