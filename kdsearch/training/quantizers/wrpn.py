"""WRPN: weights clipped to [−1, 1], activations to [0, 1], both rounded on a uniform grid."""

from __future__ import annotations

from torch import Tensor

from kdsearch.training.quantizers.base import WeightQuantizer
from kdsearch.training.quantizers.dorefa import DoReFaActivations
from kdsearch.training.quantizers.functions import Codebook, round_half_away, wide


class WRPNWeights(WeightQuantizer):
    """round((2^(k−1) − 1)·w) / (2^(k−1) − 1) of w clipped to [−1, 1] (Mishra et al. 2017, §3.1); the clip's gradient."""

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        top = 2 ** (self.bits - 1) - 1
        x = wide(w)
        return round_half_away(x.clamp(-1, 1) * top), Codebook(w.dtype, scale=x.new_full((1,), 1 / top))

    def surrogate(self, w: Tensor) -> Tensor:
        return w.clamp(-1, 1)


class WRPNActivations(DoReFaActivations):
    """round((2^k − 1)·x) / (2^k − 1) of x clipped to [0, 1] (Mishra et al. 2017, §3.1): DoReFa's function."""
