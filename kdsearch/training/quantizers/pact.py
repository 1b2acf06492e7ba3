"""PACT: activations clipped at a learned level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kdsearch.spec.precision import Activations
from kdsearch.training.quantizers.base import ActivationQuantizer
from kdsearch.training.quantizers.functions import Codebook, dequantize, divide, round_half_away, wide
from kdsearch.training.quantizers.lsq import keep_positive


class _LearnedClip(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x, clip)
        step = wide(clip) / top
        codes = round_half_away(divide(wide(x).clamp(min=0), step)).clamp(max=top)
        return dequantize(codes, Codebook(x.dtype, scale=step))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, clip = ctx.saved_tensors
        above = wide(x) >= wide(clip)
        of_clip = (wide(grads[0]) * above).sum().reshape(clip.shape).to(clip.dtype)
        return grads[0] * ((x >= 0) & ~above), of_clip, None


def learned_clip(x: Tensor, clip: Tensor, top: int) -> Tensor:
    """round(clamp(x, 0, α)·top/α)·α/top, shape and type of ``x``; ``clip`` is α, of shape (1,) (Choi et al. 2018, Eq. 1 and 2).

    ∂/∂α = 1 where x ≥ α, else 0 (Eq. 3); ∂/∂x = 1 where 0 ≤ x < α, else 0.
    """
    result: Tensor = _LearnedClip.apply(x, clip, top)
    return result


class PACT(ActivationQuantizer):
    """Activations of 0 to α in 2^b − 1 equal steps, α learned, one for each ReLU module (Choi et al. 2018).

    α starts at the option ``clip``. The paper decays α as it decays weights; here learned parameters of quantizers have no decay.
    """

    def __init__(self, options: Activations) -> None:
        super().__init__(options)
        self.clip = nn.Parameter(torch.full((1,), float(options.clip if options.clip is not None else 6.0)))

    def forward(self, x: Tensor) -> Tensor:
        return learned_clip(x, self.clip, self.top)

    def after_step(self, x: Tensor) -> None:
        keep_positive(self.clip)
