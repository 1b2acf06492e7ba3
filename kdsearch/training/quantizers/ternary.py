"""Ternary weights by a threshold: TWN (scale from the weights) and TTQ (two learned scales)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdsearch.spec.precision import Weights
from kdsearch.training.quantizers.base import WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, divide, lookup, wide


def ternary_codes(x: Tensor, threshold: Tensor) -> Tensor:
    """+1 where x > threshold, −1 where x < −threshold, else 0; shape and type of ``x``."""
    return (x > threshold).to(x.dtype) - (x < -threshold).to(x.dtype)


class TWN(WeightQuantizer):
    """Codes by the threshold 0.7·mean|w|, scale = the mean of |w| above it (Li, Zhang, Liu 2016, Eq. 5 and 6). Straight through."""

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        x = wide(w)
        codes = ternary_codes(x, float(self.options.threshold or 0.7) * x.abs().mean())
        return codes, Codebook(w.dtype, scale=divide((x * codes).sum().reshape(1), codes.abs().sum().reshape(1)))


class TTQ(WeightQuantizer):
    """Values {−Wn, 0, +Wp} with the threshold 0.05·max|w| (Zhu et al. 2016, Eq. 6 to 9).

    Wp and Wn are learned: ∂/∂Wp = Σ g over codes +1 and ∂/∂Wn = −Σ g over codes −1 (the derivative of the value −Wn). The master
    weights' gradient is g times Wp, 1 or Wn where the code is +1, 0 or −1 (Eq. 8). Both scales start at the mean of |w| of their
    weights; the paper does not say.
    """

    def __init__(self, weight: Tensor, options: Weights) -> None:
        super().__init__(weight, options)
        zero = torch.zeros(1, dtype=wide(weight.detach()).dtype, device=weight.device)
        self.positive = nn.Parameter(zero.clone())
        self.negative = nn.Parameter(zero)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        w = wide(x)
        codes = self._codes(w)
        everywhere = divide((w * codes).sum(), codes.abs().sum())
        for parameter, side in ((self.positive, codes > 0), (self.negative, codes < 0)):
            parameter.copy_(w[side].abs().mean() if bool(side.any()) else everywhere)

    def _codes(self, x: Tensor) -> Tensor:
        return ternary_codes(x, float(self.options.threshold or 0.05) * x.abs().max())

    def _table(self) -> Tensor:
        return torch.cat([-self.negative, torch.zeros_like(self.positive), self.positive])

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        return self._codes(wide(w)) + 1, Codebook(w.dtype, table=wide(self._table().detach()))

    def forward(self, w: Tensor) -> Tensor:
        codes = self._codes(wide(w.detach())) + 1
        factor = torch.cat([self.negative, torch.ones_like(self.positive), self.positive]).detach()[codes.long()]
        return lookup(w, wide(self._table()), codes, factor)
