"""Shin et al.'s uniform symmetric quantizer Q^b, whose step minimises the L2 error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from kdsearch.spec.precision import Weights
from kdsearch.training.quantizers.base import Batch, WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, binary_sign, dequantize, straight_through_all, symmetric_codes, wide
from kdsearch.training.quantizers.step import l2_step, l2_steps


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
        self.step.view(-1).copy_(l2_step(self.rows(x), self.bits))

    @classmethod
    def batch(cls, members: Sequence[tuple[Self, Tensor]]) -> Batch:
        return _Together(members)

    def rows(self, w: Tensor) -> Tensor:
        """The weights of each step size, (steps, n)."""
        return w.flatten(1) if self.per_filter else w.reshape(1, -1)

    def is_due(self, step: int) -> bool:
        """Whether Δ is computed after so many steps."""
        return self.policy == "every_step" or (self.policy == "every_k" and step % self.every == 0)

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        step = wide(self.step)
        return self.codes_of(wide(w), step), Codebook(w.dtype, scale=step)

    def codes_of(self, x: Tensor, step: Tensor) -> Tensor:
        """Codes of weights ``x`` with a step for each, as floats."""
        return binary_sign(x) if self.bits == 1 else symmetric_codes(x, step, 2 ** (self.bits - 1) - 1)


class _Together(Batch):
    """Views of weights and step sizes, made once."""

    def __init__(self, members: Sequence[tuple[Shin, Tensor]]) -> None:
        self._quantizers = [quantizer for quantizer, _ in members]
        self._weights = [w for _, w in members]
        self._flat = [w.detach().view(-1) for _, w in members]
        self._rows = [quantizer.rows(w.detach()) for quantizer, w in members]
        self._steps = [quantizer.step.view(-1) for quantizer, _ in members]
        per_step = [row.shape[1] for row in self._rows for _ in range(len(row))]
        place = torch.arange(len(per_step), device=self._flat[0].device)
        self._place = place.repeat_interleave(torch.tensor(per_step, device=place.device))

    def forward(self) -> Sequence[Tensor]:
        with torch.no_grad():
            step = torch.cat(self._steps)[self._place]
            codes = self._quantizers[0].codes_of(wide(torch.cat(self._flat)), step)
            values = dequantize(codes, Codebook(self._weights[0].dtype, scale=step))
        return straight_through_all(self._weights, values)

    def refresh(self, steps: Sequence[int]) -> None:
        due = [index for index, (quantizer, step) in enumerate(zip(self._quantizers, steps, strict=True)) if quantizer.is_due(step)]
        if due:
            found = l2_steps([self._rows[index] for index in due], self._quantizers[0].bits)
            torch._foreach_copy_([self._steps[index] for index in due], found)
