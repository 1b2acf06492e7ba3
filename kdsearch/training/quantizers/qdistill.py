"""Polino, Pascanu, Alistarh 2018 (QDistill): uniform buckets, and differentiable quantization points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdsearch.spec.precision import Weights
from kdsearch.training.quantizers.base import WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, divide, lookup, round_half_away, wide


class Buckets(WeightQuantizer):
    """2^b equally spaced values from min to max of each bucket of consecutive weights (§2.1 and 2.2). Straight through (§3).

    Buckets run over the weights in row-major order; the last may be shorter. 2 bits are 4 levels, not 3.
    """

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        bucket = self.options.bucket or 256
        top = 2**self.bits - 1
        flat = wide(w).flatten()
        missing = -flat.numel() % bucket
        rows = torch.cat([flat, flat[-1:].expand(missing)]).view(-1, bucket)
        low, high = rows.aminmax(dim=1, keepdim=True)
        scale = (high - low) / top
        codes = round_half_away(divide(rows - low, scale)).clamp(max=top)
        return codes.flatten()[: flat.numel()].view(w.shape), Codebook(w.dtype, scale=scale.flatten(), offset=low.flatten(), bucket=bucket)


class Points(WeightQuantizer):
    """Each weight becomes the nearest of 2^b points, which are learned; the master weights are not (Algorithm 2, §4).

    ∂/∂p_j is the sum of the gradients of the weights at p_j (Eq. 7). Points start at quantiles of the weights (§4.2), the
    (2j + 1)/2^(b+1) ones, so each holds the same number of weights; one set for a tensor. The master weights get no gradient at
    all, so weight decay and momentum do not move them either: a network with points needs trained weights to start from.
    """

    def __init__(self, weight: Tensor, options: Weights) -> None:
        super().__init__(weight, options)
        self.points = nn.Parameter(torch.zeros(2**self.bits, dtype=wide(weight.detach()).dtype, device=weight.device))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        rising = wide(x).flatten().sort().values
        many = self.points.numel()
        at = (torch.arange(many, device=x.device) * 2 + 1) * rising.numel() // (2 * many)
        self.points.copy_(rising[at])

    def _table(self) -> Tensor:
        return wide(self.points).sort().values  # points may have crossed

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        table = self._table().detach()
        return torch.bucketize(wide(w).contiguous(), (table[1:] + table[:-1]) / 2).to(table.dtype), Codebook(w.dtype, table=table)

    def forward(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            codes, _ = self.levels(w.detach())
        return lookup(w, self._table(), codes, None)
