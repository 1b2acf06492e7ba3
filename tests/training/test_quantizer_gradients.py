"""Gradients of the quantizers against the papers' closed forms, and against finite differences where the function is smooth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdsearch.spec.precision import WEIGHT_QUANTIZERS, Activations, Weights
from kdsearch.training.quantizers.base import WeightQuantizer, make_activation_quantizer, make_weight_quantizer
from kdsearch.training.quantizers.functions import straight_through
from kdsearch.training.quantizers.lsq import learned_step
from kdsearch.training.quantizers.pact import learned_clip

STRAIGHT = ["shin", "binaryconnect", "xnor", "twn", "qdistill"]


def on(w: Tensor, name: str, bits: int, **options: Any) -> WeightQuantizer:
    return make_weight_quantizer(w.detach(), Weights.model_validate({"quantizer": name, "bits": bits, **options}))


def weights(seed: int = 0, spread: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, 3, 3, 3, generator=generator, dtype=torch.float64) * spread).requires_grad_()


def incoming(like: Tensor, seed: int = 9) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like.dtype)


@pytest.mark.parametrize("name", STRAIGHT)
def test_the_gradient_goes_straight_through_to_the_master_weights(name: str) -> None:
    w = weights()
    for bits in WEIGHT_QUANTIZERS[name].bits:
        w.grad = None
        g = incoming(w)
        on(w, name, bits)(w).backward(g)
        assert torch.equal(w.grad, g)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(WEIGHT_QUANTIZERS))
def test_gradients_have_the_type_of_the_weights(name: str, dtype: torch.dtype) -> None:
    w = weights().detach().to(dtype).requires_grad_()
    quantizer = on(w, name, WEIGHT_QUANTIZERS[name].bits[-1])
    quantizer(w).backward(incoming(w))
    assert name == "points" or (w.grad is not None and w.grad.dtype == dtype)
    for parameter in quantizer.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.abs().sum() > 0


def lsq_oracle(x: Tensor, s: float, low: int, high: int, g: Tensor) -> tuple[Tensor, float]:
    """Esser et al. 2020, Eq. 3 and 5, one number at a time."""
    of_x, of_s = torch.zeros_like(x), 0.0
    for i, value in enumerate(x.flatten().tolist()):
        upstream = g.flatten()[i].item()
        ratio = value / s
        if ratio <= low:
            of_s += upstream * low
        elif ratio >= high:
            of_s += upstream * high
        else:
            of_s += upstream * (math.copysign(math.floor(abs(ratio) + 0.5), ratio) - ratio)
            of_x.view(-1)[i] = upstream
    return of_x, of_s


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.floats(0.01, 3), st.integers(0, 99), st.booleans())
def test_the_learned_step_has_the_gradient_of_the_paper(bits: int, s: float, seed: int, unsigned: bool) -> None:
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    x = weights(seed, spread=2.0)
    step = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    g = incoming(x)
    learned_step(x, step, low, high, 0.25).backward(g)
    of_x, of_s = lsq_oracle(x.detach(), s, low, high, g)
    assert torch.equal(x.grad, of_x)  # type: ignore[arg-type]
    assert step.grad.item() == pytest.approx(of_s * 0.25, rel=1e-9, abs=1e-9)  # type: ignore[union-attr]


def test_where_every_weight_is_clipped_the_steps_gradient_is_the_finite_difference() -> None:
    x, step = torch.tensor([9.0, -9.0, 7.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: learned_step(x, s, -4, 3, 1.0), (step,))


def test_the_scale_of_the_steps_gradient_counts_weights_or_features() -> None:
    w = weights().detach().float()
    quantizer = on(w, "lsq", 3)
    quantizer(w).backward(incoming(w))
    _, of_s = lsq_oracle(w, quantizer.get_parameter("step").item(), -4, 3, incoming(w))
    assert quantizer.get_parameter("step").grad.item() == pytest.approx(of_s / math.sqrt(w.numel() * 3), rel=1e-4)  # type: ignore[union-attr]
    x = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(1)) * 3
    activation = make_activation_quantizer(Activations(quantizer="lsq", bits=2))
    activation(x).backward(incoming(x))
    _, of_s = lsq_oracle(x, activation.get_parameter("step").item(), 0, 3, incoming(x))
    assert activation.get_parameter("step").grad.item() == pytest.approx(of_s / math.sqrt(8 * 3), rel=1e-4)  # type: ignore[union-attr]


def test_the_two_learned_scales_have_the_gradients_of_the_paper() -> None:
    w = weights()
    quantizer = on(w, "ttq", 2)
    positive, negative = quantizer.get_parameter("positive"), quantizer.get_parameter("negative")
    with torch.no_grad():
        positive.fill_(0.7)
        negative.fill_(0.2)
    g = incoming(w)
    quantizer(w).backward(g)
    threshold = 0.05 * w.detach().abs().max()
    above, below = w.detach() > threshold, w.detach() < -threshold
    assert positive.grad.item() == pytest.approx(g[above].sum().item())  # type: ignore[union-attr]
    assert negative.grad.item() == pytest.approx(-g[below].sum().item())  # type: ignore[union-attr]
    factor = torch.where(above, positive.detach(), torch.where(below, negative.detach(), 1.0))
    assert torch.allclose(w.grad, g * factor)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "parameters"), [("ttq", ("positive", "negative")), ("points", ("points",))])
def test_values_that_are_learned_have_the_gradient_of_finite_differences(name: str, parameters: tuple[str, ...]) -> None:
    w = weights().detach()
    quantizer = on(w, name, 2)
    g = incoming(w)
    (quantizer(w) * g).sum().backward()
    for parameter in map(quantizer.get_parameter, parameters):
        for i in range(parameter.numel()):
            ends = []
            for sign in (1, -1):  # values are linear in the parameters while no weight changes its code
                with torch.no_grad():
                    parameter[i] += sign * 1e-9
                    ends.append((quantizer(w) * g).sum().item())
                    parameter[i] -= sign * 1e-9
            assert parameter.grad[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-9, rel=1e-4, abs=1e-4)  # type: ignore[index]


def test_points_are_trained_and_master_weights_are_not_even_by_weight_decay() -> None:
    w = torch.nn.Parameter(weights().detach())
    quantizer = on(w, "points", 2)
    before, points = w.detach().clone(), quantizer.get_parameter("points").detach().clone()
    optimizer = torch.optim.SGD([w, *quantizer.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        quantizer(w).square().sum().backward()
        optimizer.step()
    assert torch.equal(w, before)
    assert not torch.equal(quantizer.get_parameter("points"), points)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_learned_clip_has_the_gradient_of_the_paper(bits: int) -> None:
    x = torch.tensor([-1.0, 0.0, 0.3, 1.9, 2.0, 2.1, 50.0], dtype=torch.float64, requires_grad=True)
    clip = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([1.0, 2, 3, 4, 5, 6, 7], dtype=torch.float64)
    learned_clip(x, clip, 2**bits - 1).backward(g)
    assert clip.grad.item() == 5 + 6 + 7  # type: ignore[union-attr]
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0, 0]  # type: ignore[union-attr]


def test_above_the_learned_clip_its_gradient_is_the_finite_difference() -> None:
    x = torch.tensor([3.0, 8.0], dtype=torch.float64)
    clip = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: learned_clip(x, a, 3), (clip,))


def test_dorefa_weights_have_the_gradient_of_the_formula_without_rounding() -> None:
    w = weights()
    quantizer = on(w, "dorefa", 3)
    assert torch.autograd.gradcheck(quantizer.surrogate, (w,))
    g = incoming(w)
    quantizer(w).backward(g)
    (expected,) = torch.autograd.grad(torch.tanh(w) / torch.tanh(w).abs().max(), w, g)
    assert torch.allclose(w.grad, expected)  # type: ignore[arg-type]
    one_bit = weights()
    on(one_bit, "dorefa", 1)(one_bit).backward(g)
    assert torch.equal(one_bit.grad, g)  # type: ignore[arg-type]


def test_clipped_weights_and_activations_have_no_gradient() -> None:
    w = torch.tensor([[-1.5, -0.5, 0.2, 1.5]], requires_grad=True)
    on(w, "wrpn", 3)(w).sum().backward()
    assert w.grad.tolist() == [[0, 1, 1, 0]]  # type: ignore[union-attr]
    for name in ("dorefa", "wrpn"):
        x = torch.tensor([[0.2, 0.9, 1.5]], requires_grad=True)
        make_activation_quantizer(Activations(quantizer=name, bits=2))(x).sum().backward()  # type: ignore[arg-type]
        assert x.grad.tolist() == [[1, 1, 0]]  # type: ignore[union-attr]


def test_straight_through_gives_the_value_itself_not_a_rounded_sum() -> None:
    surrogate, value = torch.tensor([1e8], requires_grad=True), torch.tensor([0.1])
    result = straight_through(surrogate, value)
    assert torch.equal(result, value)
    result.backward(torch.tensor([3.0]))
    assert surrogate.grad.item() == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lsq", "pact"])
def test_a_learned_step_or_clip_that_falls_below_zero_is_reflected(name: str) -> None:
    quantizer = make_activation_quantizer(Activations(quantizer=name, bits=2))  # type: ignore[arg-type]
    (parameter,) = quantizer.parameters()
    for value, expected in ((-0.25, 0.25), (0.0, 1e-8)):
        with torch.no_grad():
            parameter.fill_(value)
            quantizer.after_step(torch.empty(0))
        assert parameter.item() == pytest.approx(expected)
