"""LSQ: the step size is learned, of weights and of activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from kdsearch.spec.precision import Activations, Weights
from kdsearch.training.quantizers.base import ActivationQuantizer, WeightQuantizer
from kdsearch.training.quantizers.functions import Codebook, dequantize, divide, round_half_away, wide

SMALLEST_STEP = 1e-8


class _LearnedStep(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
        codes = step_codes(x, step, low, high)
        ctx.save_for_backward(x, step, codes)
        ctx.options = low, high, gradient_scale
        return dequantize(codes, Codebook(x.dtype, scale=wide(step)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, step, codes = ctx.saved_tensors
        low, high, gradient_scale = ctx.options
        ratio = divide(wide(x), wide(step))
        inside = (ratio > low) & (ratio < high)
        of_step = (wide(grads[0]) * torch.where(inside, codes - ratio, codes)).sum().reshape(step.shape)
        return grads[0] * inside, (of_step * gradient_scale).to(step.dtype), None, None, None


def step_codes(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """round(clip(x/step, low, high)), shape of ``x``, float32 or wider."""
    return round_half_away(divide(wide(x), wide(step)).clamp(low, high))


def learned_step(x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
    """step·round(clip(x/step, low, high)) (Esser et al. 2020, Eq. 1 and 2), shape and type of ``x``; ``step`` of shape (1,).

    With r = x/step: ∂/∂step = round(r) − r inside, low or high where r is clipped (Eq. 3), times ``gradient_scale``;
    ∂/∂x = 1 inside, else 0 (Eq. 5).
    """
    result: Tensor = _LearnedStep.apply(x, step, low, high, gradient_scale)
    return result


def starting_step(x: Tensor, high: int) -> Tensor:
    """2·mean|x|/√high (Esser et al. 2020, §2.1), a scalar above 0."""
    return (2 * wide(x.detach()).abs().mean() / math.sqrt(high)).clamp(min=SMALLEST_STEP)


def keep_positive(step: Tensor) -> None:
    """Reflect a learned step that an optimizer took below 0."""
    step.abs_().clamp_(min=SMALLEST_STEP)


class LSQWeights(WeightQuantizer):
    """Codes −2^(b−1) to 2^(b−1) − 1 times a learned step; its gradient is scaled by 1/√(N·Qp), N weights (Esser et al. 2020, §2.2)."""

    def __init__(self, weight: Tensor, options: Weights) -> None:
        super().__init__(weight, options)
        self.low, self.high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        self.step = nn.Parameter(torch.ones(1, dtype=wide(weight.detach()).dtype, device=weight.device))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        self.step.fill_(starting_step(x, self.high))

    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        step = self.step.detach()
        return step_codes(w, step, self.low, self.high), Codebook(w.dtype, scale=wide(step))

    def forward(self, w: Tensor) -> Tensor:
        return learned_step(w, self.step, self.low, self.high, 1 / math.sqrt(w.numel() * self.high))

    def after_step(self, x: Tensor) -> None:
        keep_positive(self.step)


class LSQActivations(ActivationQuantizer):
    """Codes 0 to 2^b − 1 times a learned step; N of the gradient's scale is the number of features of one image.

    The step starts at 2·mean|x|/√Qp of the first batch that is seen in training mode. Before that, in evaluation mode, each
    batch takes a step of its own, which is not kept.
    """

    started: Tensor

    def __init__(self, options: Activations) -> None:
        super().__init__(options)
        self.step = nn.Parameter(torch.ones(1))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._started = False  # the buffer again, so that an accelerator is not waited for in every pass

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        self.started.fill_(False)
        self._started = False

    def restored(self) -> None:
        self._started = bool(self.started)

    def forward(self, x: Tensor) -> Tensor:
        step: Tensor = self.step
        if not self._started:
            first = starting_step(x, self.top)
            if not self.training:
                step = first.reshape(1)
            else:
                with torch.no_grad():
                    self.step.fill_(first)
                self.started.fill_(True)
                self._started = True
        return learned_step(x, step, 0, self.top, 1 / math.sqrt(max(1, x[0].numel()) * self.top))

    def after_step(self, x: Tensor) -> None:
        keep_positive(self.step)
