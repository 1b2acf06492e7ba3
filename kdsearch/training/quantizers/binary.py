"""Binary weights: BinaryConnect and XNOR-Net's binary-weight network."""

from __future__ import annotations

from torch import Tensor

from kdsearch.training.quantizers.base import WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, binary_sign, wide


class BinaryConnect(WeightQuantizer):
    """Q(w) = sign(w), ±1 (Courbariaux, Bengio, David 2015, deterministic, Eq. 1).

    Straight through; master weights are clipped to [−1, 1] after each optimizer step (§2.4).
    """

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        x = wide(w)
        return binary_sign(x), Codebook(w.dtype, scale=x.new_ones(1))

    def after_step(self, w: Tensor) -> None:
        w.clamp_(-1, 1)


class Xnor(WeightQuantizer):
    """Q(w) = mean|w|·sign(w), the mean over each output filter (Rastegari et al. 2016, BWN, Eq. 6).

    The gradient goes straight through; the paper's own estimator scales it by 1/n + mean|w|·1[|w| ≤ 1].
    """

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        x = wide(w)
        return binary_sign(x), Codebook(w.dtype, scale=x.abs().mean(tuple(range(1, x.dim())), keepdim=True))
