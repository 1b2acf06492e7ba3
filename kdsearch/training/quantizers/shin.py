"""Shin et al.'s uniform symmetric quantizer Q^b, whose step minimises the L2 error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor

from kdsearch.spec.precision import Weights
from kdsearch.training.quantizers.base import WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, as_tensor, binary_sign, dequantize, straight_through_all, symmetric_codes, wide
from kdsearch.training.quantizers.step import l2_steps


class Shin(WeightQuantizer):
    """Q¹(w) = Δ·sign(w); Q^b(w) = sign(w)·Δ·min(⌊|w|/Δ + 0.5⌋, (M−1)/2), M = 2^b − 1 (Shin, Boo, Sung, Eq. 1 and 2).

    Gradients go straight through to the master weights (Algorithm 1). Δ is a buffer, one for the tensor or one per output
    filter, computed when the quantizer starts and again as ``step_policy`` says; it is saved with the network.
    """

    step: Tensor

    def __init__(self, weight: Tensor, options: Weights) -> None:
        super().__init__(weight, options)
        self.policy = options.step_policy or "every_step"
        self.every = options.every or 1
        self.per_filter = options.granularity == "filter"
        shape = (weight.shape[0], *[1] * (weight.dim() - 1)) if self.per_filter else (1,)
        self.register_buffer("step", torch.zeros(shape, dtype=wide(weight.detach()).dtype, device=weight.device))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        self._set_steps([(self, x)])

    @classmethod
    def refresh(cls, due: Sequence[tuple[Self, Tensor, int]]) -> None:
        cls._set_steps([(quantizer, w) for quantizer, w, step in due if quantizer._is_due(step)])

    def _is_due(self, step: int) -> bool:
        return self.policy == "every_step" or (self.policy == "every_k" and step % self.every == 0)

    @classmethod
    def _set_steps(cls, due: Sequence[tuple[Self, Tensor]]) -> None:
        """Δ of each quantizer, worked out together (:func:`~kdsearch.training.quantizers.step.l2_steps`)."""
        groups: dict[tuple[object, ...], list[tuple[Self, Tensor]]] = {}
        for quantizer, w in due:
            groups.setdefault((quantizer.bits, w.dtype, w.device), []).append((quantizer, w))
        for (bits, *_), group in groups.items():
            steps = l2_steps([w.flatten(1) if quantizer.per_filter else w.reshape(1, -1) for quantizer, w in group], cast(int, bits))
            torch._foreach_copy_([quantizer.step.view(-1) for quantizer, _ in group], steps)

    @classmethod
    def forward_all(cls, due: Sequence[tuple[Self, Tensor]]) -> Sequence[Tensor] | None:
        if len({(quantizer.bits, w.dtype, w.device) for quantizer, w in due}) > 1:
            return None
        with torch.no_grad():
            flat = wide(torch.cat([w.reshape(-1) for _, w in due]))
            steps = wide(torch.cat([quantizer.step.reshape(-1) for quantizer, _ in due]))
            each = tuple(w.numel() // quantizer.step.numel() for quantizer, w in due for _ in range(quantizer.step.numel()))
            step = steps.repeat_interleave(as_tensor(each, flat.device), output_size=len(flat))
            values = dequantize(due[0][0]._codes(flat, step), Codebook(due[0][1].dtype, scale=step))
        return straight_through_all([w for _, w in due], values)

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        step = wide(self.step)
        return self._codes(wide(w), step), Codebook(w.dtype, scale=step)

    def _codes(self, x: Tensor, step: Tensor) -> Tensor:
        return binary_sign(x) if self.bits == 1 else symmetric_codes(x, step, 2 ** (self.bits - 1) - 1)
