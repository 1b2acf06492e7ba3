"""Pure functions that every quantizer is built from: rounding, exact codes, and gradients of what has no derivative.

All arithmetic runs in float32 or wider (:func:`wide`); results are cast back to the weight's type at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class Codebook:
    """How integer codes become values. Exactly one of ``scale`` and ``table`` is given.

    Uniform: value = code · scale (+ offset). ``scale`` and ``offset`` have shape (1,) for a tensor, (filters, 1, …) for one
    scale per filter, or (buckets,) with ``bucket`` consecutive weights (row-major) to each.
    Table: value = table[code], ``table`` of shape (values,).
    ``dtype`` is the type of the values.
    """

    dtype: torch.dtype
    scale: Tensor | None = None
    offset: Tensor | None = None
    bucket: int | None = None
    table: Tensor | None = None


def dequantize(codes: Tensor, book: Codebook) -> Tensor:
    """Values of ``codes`` (any integer or float type holding integers, any shape), same shape, type ``book.dtype``.

    The quantizers' forward passes end with this very function, so values rebuilt from exported codes are equal bit for bit.
    """
    if book.table is not None:
        return book.table[codes.long()].to(book.dtype)
    assert book.scale is not None
    scale, offset = book.scale, book.offset
    if book.bucket is not None:
        scale = _per_weight(scale, book.bucket, codes)
        offset = None if offset is None else _per_weight(offset, book.bucket, codes)
    values = codes.to(scale.dtype) * scale
    return (values if offset is None else values + offset).to(book.dtype)


def _per_weight(of_bucket: Tensor, bucket: int, like: Tensor) -> Tensor:
    return of_bucket.repeat_interleave(bucket)[: like.numel()].view(like.shape)


def wide(x: Tensor) -> Tensor:
    """``x`` in the type that quantizers compute in: float32, or float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def round_half_away(x: Tensor) -> Tensor:
    """sign(x)·⌊|x| + 0.5⌋: halves go away from zero, unlike ``torch.round``, which takes them to the even neighbour."""
    return torch.copysign(torch.floor(x.abs() + 0.5), x) + 0.0  # no −0.0, which integer codes do not have


def binary_sign(x: Tensor) -> Tensor:
    """+1 where x ≥ 0 (also at −0.0), −1 elsewhere: never 0, unlike ``torch.sign``."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def divide(x: Tensor, step: Tensor) -> Tensor:
    """x / step, and 0 where the step is 0 (an all-zero tensor has no other step)."""
    return x / torch.where(step == 0, torch.full_like(step, torch.inf), step)


def symmetric_codes(x: Tensor, step: Tensor, top: int) -> Tensor:
    """sign(x)·min(⌊|x|/step + 0.5⌋, top), shape of ``x``; 0 where ``step`` is 0 (Shin et al., Eq. 2)."""
    return round_half_away(divide(x, step)).clamp(-top, top)


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(surrogate: Tensor, value: Tensor) -> Tensor:
    """``value`` exactly, with the gradient of ``surrogate`` (Bengio et al. 2013). Both of one shape and type."""
    result: Tensor = _StraightThrough.apply(surrogate, value)
    return result


class _StraightThroughAll(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *surrogates: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        parts = torch.split(values, [surrogate.numel() for surrogate in surrogates])
        return tuple(part.view(surrogate.shape) for part, surrogate in zip(parts, surrogates, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *grads)


def straight_through_all(surrogates: Sequence[Tensor], values: Tensor) -> tuple[Tensor, ...]:
    """:func:`straight_through` of several: ``values`` holds all of them one after another, flat."""
    result: tuple[Tensor, ...] = _StraightThroughAll.apply(values, *surrogates)
    return result


class _Lookup(Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, table: Tensor, codes: Tensor, factor: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, factor)
        ctx.values = table.numel()
        ctx.table_dtype = table.dtype
        return dequantize(codes, Codebook(w.dtype, table=table))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        codes, factor = ctx.saved_tensors
        grad = grads[0]
        sums = torch.zeros(ctx.values, dtype=wide(grad).dtype, device=grad.device)
        sums.index_add_(0, codes.flatten().long(), wide(grad).flatten())
        return (None if factor is None else (grad * factor).to(grad.dtype)), sums.to(ctx.table_dtype), None, None


def lookup(w: Tensor, table: Tensor, codes: Tensor, factor: Tensor | None) -> Tensor:
    """table[codes], shape and type of ``w``.

    Gradient of ``table[j]``: the sum of the gradients of the weights with code j. Gradient of ``w``: the incoming one times
    ``factor`` (broadcast); none at all, so that an optimizer leaves ``w`` alone, where ``factor`` is None.
    """
    result: Tensor = _Lookup.apply(w, table, codes, factor)
    return result
