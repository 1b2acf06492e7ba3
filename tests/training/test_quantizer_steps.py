"""Shin's step size against oracles that try every assignment or a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdsearch.training.quantizers.step import l2_step, l2_steps

WEIGHTS = st.lists(st.floats(-4, 4, width=32, allow_subnormal=False), min_size=1, max_size=40).map(lambda v: torch.tensor([v]))
SHAPES = ("normal", "laplace", "heavy", "clusters", "uniform", "lattice", "outlier")


def draw(shape: str, n: int, seed: int) -> Tensor:
    """(8, n) weights of a distribution."""
    torch.manual_seed(seed)
    size = (8, n)
    return {
        "normal": lambda: torch.randn(size) * 0.05,
        "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample(size),
        "heavy": lambda: torch.distributions.StudentT(2.0).sample(size),
        "clusters": lambda: torch.randn(size) * 0.05 + torch.randint(-1, 2, size),
        "uniform": lambda: torch.rand(size) - 0.5,
        "lattice": lambda: torch.randint(-9, 10, size) * 0.1,
        "outlier": lambda: torch.cat([torch.randn(8, n - 1), torch.full((8, 1), 60.0)], 1),
    }[shape]()


def error(w: Tensor, step: Tensor, top: int) -> Tensor:
    """‖w − Q(w)‖² of each row in float64, written down from the paper's formula."""
    x, d = w.double().abs(), step.double().unsqueeze(1)
    codes = torch.where(d > 0, torch.floor(x / torch.where(d > 0, d, 1.0) + 0.5), 0.0).clamp(max=top)
    return ((x - codes * d) ** 2).sum(1)


def best_of_grid(w: Tensor, top: int, points: int = 1500) -> Tensor:
    grid = w.abs().amax(1).double() / top * torch.logspace(-9, 0.6, points, base=2, dtype=torch.float64).unsqueeze(1)
    return torch.stack([error(w, step, top) for step in grid]).amin(0)


def best_ternary(w: Tensor) -> float:
    """Least error over every threshold: the k largest magnitudes are ±Δ, the rest 0, at the best Δ for them; k = 0 to n."""
    x = np.sort(np.abs(w.double().numpy().ravel()))[::-1]
    errors = [float((x**2).sum())]
    for k in range(1, len(x) + 1):
        step = x[:k].mean()
        errors.append(float(((x[:k] - step) ** 2).sum() + (x[k:] ** 2).sum()))
    return min(errors)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS)
def test_the_ternary_step_has_the_least_error_of_every_threshold(w: Tensor) -> None:
    found = error(w, l2_step(w, 2), 1).item()
    assert found <= best_ternary(w) * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ternary_step_is_exact_on_large_tensors(shape: str) -> None:
    w = draw(shape, 700, 3)
    found = error(w, l2_step(w, 2), 1)
    for row, own in zip(w, found, strict=True):
        assert own.item() == pytest.approx(best_ternary(row), rel=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [40, 600, 2000])
def test_no_step_of_a_fine_grid_has_less_error(bits: int, shape: str, n: int) -> None:
    top = 2 ** (bits - 1) - 1
    w = draw(shape, n, bits)
    assert (error(w, l2_step(w, bits), top) <= best_of_grid(w, top, 400) * (1 + 1e-6) + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.sampled_from([3, 4]))
def test_no_step_of_a_fine_grid_has_less_error_on_any_small_tensor(w: Tensor, bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    assert error(w, l2_step(w, bits), top).item() <= best_of_grid(w, top, 300).item() * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
def test_more_bits_come_close_to_a_fine_grid_and_never_lose_to_fewer(bits: int) -> None:
    w = draw("normal", 2000, bits)
    top = 2 ** (bits - 1) - 1
    found = error(w, l2_step(w, bits), top)
    assert (found <= best_of_grid(w, top) * 1.01).all()
    assert (found < error(w, l2_step(w, bits - 1), top // 2)).all()


def test_one_bit_takes_the_mean_magnitude() -> None:
    assert l2_step(torch.tensor([[1.0, -2.0, 3.0, 0.0]]), 1).tolist() == [1.5]


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_power_of_two_on_the_weights_is_one_on_the_step(bits: int) -> None:
    w = draw("normal", 500, 1)
    assert torch.equal(l2_step(w * 8, bits), l2_step(w, bits) * 8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_worked_out_together_are_those_worked_out_alone_in_any_order_of_weights(bits: int) -> None:
    w = draw("normal", 300, 2)
    together = l2_step(w, bits)
    assert torch.equal(together, torch.cat([l2_step(row[None], bits) for row in w]))
    if bits > 1:  # the mean of 1 bit is summed in the order of the weights
        assert torch.equal(together, l2_step(-w[:, torch.randperm(300)], bits))


@pytest.mark.parametrize("bits", range(1, 9))
def test_all_zero_rows_have_step_zero_and_one_weight_is_met_exactly(bits: int) -> None:
    top = max(1, 2 ** (bits - 1) - 1)
    assert l2_step(torch.zeros(2, 700), bits).tolist() == [0.0, 0.0]
    step = l2_step(torch.tensor([[-0.7]]), bits)
    assert error(torch.tensor([[-0.7]]), step, top).item() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_have_the_step_of_the_same_weights_in_float32(dtype: torch.dtype) -> None:
    w = draw("normal", 400, 4).to(dtype)
    assert torch.equal(l2_step(w, 2), l2_step(w.float(), 2))
    assert l2_step(w, 2).dtype == torch.float32


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("longest", [30, 70_000])
def test_steps_of_weights_of_many_sizes_are_those_of_each_alone(bits: int, longest: int) -> None:
    weights = [draw("laplace", n, n)[:rows] for n, rows in ((7, 1), (30, 3), (longest, 1), (7, 2), (1, 1))]
    together = l2_steps(weights, bits)
    assert all(torch.equal(step, l2_step(w, bits)) for step, w in zip(together, weights, strict=True))
