"""DoReFa-Net: weights through tanh to the range [−1, 1], activations clipped to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsearch.training.quantizers.base import ActivationQuantizer, WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, binary_sign, divide, round_half_away, straight_through, wide


class DoReFaWeights(WeightQuantizer):
    """2·q_k(tanh w / (2·max|tanh w|) + ½) − 1, q_k(x) = round((2^k − 1)·x) / (2^k − 1) (Zhou et al. 2016, Eq. 9 and 10).

    1 bit: mean|w|·sign(w) (Eq. 8). The gradient is that of the formula without q_k, straight through for 1 bit.
    """

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        x = wide(w)
        if self.bits == 1:
            return binary_sign(x), Codebook(w.dtype, scale=x.abs().mean().reshape(1))
        top = 2**self.bits - 1
        unit = self.surrogate(x) / 2 + 0.5
        return 2 * round_half_away(unit * top) - top, Codebook(w.dtype, scale=x.new_full((1,), 1 / top))

    def surrogate(self, w: Tensor) -> Tensor:
        if self.bits == 1:
            return w
        squashed = torch.tanh(w)
        return divide(squashed, squashed.abs().max())


class DoReFaActivations(ActivationQuantizer):
    """round((2^k − 1)·x) / (2^k − 1) of x clipped to [0, 1] (Zhou et al. 2016, Eq. 11); the clip's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        clipped = x.clamp(0, 1)
        with torch.no_grad():
            value = (round_half_away(wide(clipped) * self.top) / self.top).to(x.dtype)
        return straight_through(clipped, value)
