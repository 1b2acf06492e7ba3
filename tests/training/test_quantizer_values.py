"""Values that each weight and activation quantizer gives: their sets, rounding, edge cases, exact codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from kdsearch.spec.precision import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, Activations, Weights
from kdsearch.training.quantizers.base import WeightQuantizer, dequantize, make_activation_quantizer, make_weight_quantizer

WEIGHT_CASES = [(name, bits) for name, row in WEIGHT_QUANTIZERS.items() for bits in row.bits]
ACTIVATION_CASES = [(name, bits) for name, row in ACTIVATION_QUANTIZERS.items() for bits in row.bits]
EQUIVARIANT = ["shin", "xnor", "twn", "ttq", "lsq", "qdistill", "points"]
BINARY = ["shin", "binaryconnect", "xnor", "dorefa"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def on(w: Tensor, name: str, bits: int, **options: Any) -> WeightQuantizer:
    return make_weight_quantizer(w, Weights.model_validate({"quantizer": name, "bits": bits, **options}))


def filters(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.3).to(dtype)


def distinct(x: Tensor) -> int:
    return len(x.unique())


@pytest.mark.parametrize(("name", "bits"), WEIGHT_CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_and_codebook_give_the_forward_pass_bit_for_bit(name: str, bits: int, dtype: torch.dtype) -> None:
    w = filters(bits, dtype)
    quantizer = on(w, name, bits)
    codes, book = quantizer.codes(w)
    value = quantizer(w)
    assert not codes.is_floating_point() and codes.shape == w.shape
    assert value.dtype == dtype and value.shape == w.shape
    integers = {torch.float32: torch.int32}.get(dtype, torch.int16)
    assert torch.equal(dequantize(codes, book).view(integers), value.detach().view(integers))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "bits"), WEIGHT_CASES)
def test_the_order_of_weights_in_memory_changes_nothing(name: str, bits: int) -> None:
    w = filters(bits)
    other = w.to(memory_format=torch.channels_last)
    value = on(other, name, bits)(other)
    assert torch.allclose(value, on(w, name, bits)(w), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(WEIGHT_CASES),
    st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=30),
    st.sampled_from([{}, {"granularity": "filter"}, {"bucket": 4}]),
)
def test_codes_are_exact_for_any_weights(case: tuple[str, int], values: list[float], options: dict[str, Any]) -> None:
    w = torch.tensor(values).view(-1, 1)
    options = {key: value for key, value in options.items() if key in WEIGHT_QUANTIZERS[case[0]].options}
    quantizer = on(w, *case, **options)
    value = quantizer(w)
    assert value.isfinite().all()
    assert torch.equal(dequantize(*quantizer.codes(w)).view(torch.int32), value.detach().view(torch.int32))


@pytest.mark.parametrize(("name", "bits"), WEIGHT_CASES)
def test_a_tensor_has_no_more_values_than_its_bits_allow(name: str, bits: int) -> None:
    w = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1)) * 0.4
    options = {"bucket": 4000} if name == "qdistill" else {}
    symmetric = {"shin", "wrpn"}
    allowed = 2 if bits == 1 else 3 if name in {"twn", "ttq"} else 2**bits - (name in symmetric)
    found = distinct(on(w, name, bits, **options)(w))
    assert found <= allowed
    assert found == allowed or bits > 3  # coarse grids are used up by 3,000 normal weights


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_each_filter_and_each_bucket_has_values_of_its_own(bits: int) -> None:
    w = filters()
    shin = on(w, "shin", bits, granularity="filter")(w)
    assert all(distinct(one) <= max(2, 2**bits - 1) for one in shin)
    assert distinct(shin) > 2**bits
    rows = on(w, "qdistill", bits, bucket=36)(w).view(-1, 36)
    for row, master in zip(rows, w.view(-1, 36), strict=True):
        assert distinct(row) == 2**bits or (bits == 3 and distinct(row) < 8)
        assert row.min() == master.min() and row.max().item() == pytest.approx(master.max().item(), abs=1e-6)


def test_a_last_shorter_bucket_runs_between_its_own_ends() -> None:
    w = torch.tensor([[0.0, 1.0, 2.0, 3.0, 5.0, 5.1, 6.0]])
    assert on(w, "qdistill", 1, bucket=4)(w).tolist() == [[0, 0, 3, 3, 5, 5, 6]]


def test_a_shin_tensor_of_two_bits_is_ternary_and_its_levels_are_multiples_of_the_step() -> None:
    w = filters()
    quantizer = on(w, "shin", 2)
    assert sorted(quantizer(w).unique().tolist()) == [-quantizer.step.item(), 0.0, quantizer.step.item()]
    codes, _ = on(w, "shin", 4).codes(w)
    assert codes.min() >= -7 and codes.max() <= 7


def test_halves_are_rounded_away_from_zero() -> None:
    w = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -7.0]])
    shin = on(w, "shin", 4)
    shin.step.fill_(1.0)
    assert shin(w).tolist() == [[1, 2, 3, -1, -2, -3, 0, -7]]
    lsq = on(w, "lsq", 4)
    lsq.step.data.fill_(1.0)
    assert lsq(w).tolist() == [[1, 2, 3, -1, -2, -3, 0, -7]]
    assert (on(w, "wrpn", 3)(torch.tensor([0.5, -0.5, 1 / 6, -1 / 6])) * 3).round().tolist() == [2, -2, 1, -1]


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_sign_is_never_zero(name: str) -> None:
    w = torch.tensor([[0.0, -0.0, 1.0, -2.0, 0.0]])
    codes, _ = on(w, name, 1).codes(w)
    assert codes.tolist() == [[1, 1, 1, -1, 1]]
    assert (on(w, name, 1)(w) != 0).all()


EDGES = [torch.zeros(4, 9), torch.tensor([[0.3]]), torch.tensor([[-0.3]]), torch.full((2, 5), 0.25)]


@pytest.mark.parametrize(("name", "bits"), WEIGHT_CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_zero_one_element_and_constant_tensors_stay_finite_and_train(name: str, bits: int, dtype: torch.dtype) -> None:
    for edge in EDGES:
        _stays_finite_and_trains(name, bits, edge.to(dtype).clone().requires_grad_())


def _stays_finite_and_trains(name: str, bits: int, w: Tensor) -> None:
    quantizer = on(w, name, bits)
    value = quantizer(w)
    value.float().square().sum().backward()
    assert value.isfinite().all()
    for tensor in (w, *quantizer.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    if name not in {"binaryconnect", "dorefa", "wrpn"}:  # whose levels do not depend on the weights
        tolerance = 1e-6 if w.dtype == torch.float32 else 3e-3
        exact = name != "lsq" or not w.any()
        assert not exact or torch.allclose(value, w, atol=tolerance)


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("factor", [0.25, 2.0, 64.0])
def test_scaled_weights_have_scaled_values(name: str, factor: float) -> None:
    w = filters()
    for bits in WEIGHT_QUANTIZERS[name].bits:
        assert torch.equal(on(w * factor, name, bits)(w * factor), on(w, name, bits)(w) * factor)


@pytest.mark.parametrize("name", ["shin", "xnor", "twn", "binaryconnect", "wrpn", "ttq"])
def test_opposite_weights_have_opposite_values(name: str) -> None:
    w = filters()
    for bits in WEIGHT_QUANTIZERS[name].bits:
        there, back = on(w, name, bits)(w), on(-w, name, bits)(-w)
        assert torch.allclose(there, -back, atol=1e-7)


@pytest.mark.parametrize("name", ["shin", "twn", "ttq", "wrpn", "binaryconnect", "qdistill", "points"])
def test_larger_weights_never_have_smaller_values(name: str) -> None:
    w = torch.randn(1, 200, generator=torch.Generator().manual_seed(2)).sort().values
    for bits in WEIGHT_QUANTIZERS[name].bits:
        assert (on(w, name, bits)(w).diff() >= 0).all()


def test_formulas_of_the_papers_hold_on_small_examples() -> None:
    w = torch.tensor([[0.9, -0.2, 0.1, -1.0]])  # mean |w| 0.55
    assert on(w, "twn", 2)(w)[0].tolist() == pytest.approx([0.95, 0, 0, -0.95])  # threshold 0.385
    assert on(w, "twn", 2, threshold=0.3)(w)[0].tolist() == pytest.approx([0.7, -0.7, 0, -0.7])  # threshold 0.165
    assert on(w, "ttq", 2)(w)[0].tolist() == pytest.approx([0.5, -0.6, 0.5, -0.6])  # threshold 0.05
    assert on(w, "xnor", 1)(torch.cat([w, 2 * w])).abs().mean(1).tolist() == pytest.approx([0.55, 1.1])
    assert on(w, "lsq", 3).get_parameter("step").item() == pytest.approx(2 * 0.55 / 3**0.5)
    assert on(w, "qdistill", 1)(w)[0].tolist() == pytest.approx([0.9, -1.0, 0.9, -1.0])
    assert on(w, "wrpn", 2)(torch.tensor([[3.0, 0.4, -0.6]])).tolist() == [[1, 0, -1]]
    half = torch.tensor(0.5).atanh()
    assert on(w, "dorefa", 2)(torch.tensor([[half, -half, 1e-3, 20.0]]))[0].tolist() == pytest.approx([1 / 3, -1 / 3, 1 / 3, 1])


def test_points_start_at_quantiles_and_each_weight_takes_the_nearest() -> None:
    w = torch.randn(1, 800, generator=torch.Generator().manual_seed(3))
    quantizer = on(w, "points", 2)
    points = quantizer.get_parameter("points")
    assert points.tolist() == pytest.approx(torch.quantile(w, torch.tensor([1, 3, 5, 7]) / 8).tolist(), abs=0.02)
    with torch.no_grad():
        points.copy_(torch.tensor([0.7, -1.0, 0.1, 0.3]))  # points that crossed
    nearest = points[(w[0][:, None] - points).abs().argmin(1)]
    assert torch.equal(quantizer(w)[0], nearest)


@pytest.mark.parametrize(("name", "bits"), ACTIVATION_CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_take_equally_spaced_values_from_zero(name: str, bits: int, dtype: torch.dtype) -> None:
    quantizer = make_activation_quantizer(Activations(quantizer=name, bits=bits))  # type: ignore[arg-type]
    x = torch.linspace(0, 8, 5001, dtype=torch.float32).to(dtype).view(1, -1)
    value = quantizer(x)
    assert value.dtype == dtype and value.min() == 0
    assert distinct(value) <= 2**bits
    if dtype == torch.float32:
        top = {"dorefa": 1.0, "wrpn": 1.0, "pact": 6.0}.get(name)
        step = quantizer.get_parameter("step").item() if top is None else top / (2**bits - 1)
        assert torch.allclose(value / step, (value / step).round(), atol=1e-3)
        assert value.max().item() == pytest.approx(step * (2**bits - 1)) or (top is None and step * (2**bits - 1.5) > 8)
        inside = x < step * (2**bits - 1)
        assert ((value - x)[inside].abs() <= step / 2 * 1.001).all()


@pytest.mark.parametrize("name", list(ACTIVATION_QUANTIZERS))
def test_all_zero_activations_stay_zero(name: str) -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    value = make_activation_quantizer(Activations(quantizer=name, bits=2))(x)  # type: ignore[arg-type]
    value.sum().backward()
    assert not value.any() and x.grad is not None and x.grad.isfinite().all()


def test_a_learned_activation_step_starts_on_the_first_training_batch_only() -> None:
    quantizer = make_activation_quantizer(Activations(quantizer="lsq", bits=2)).eval()
    first, second = torch.full((2, 4), 3.0), torch.full((2, 4), 5.0)
    quantizer(second)
    quantizer.train()
    quantizer(first)
    assert quantizer.get_parameter("step").item() == pytest.approx(6 / 3**0.5)
    quantizer(second)
    quantizer.eval()(second)
    assert quantizer.get_parameter("step").item() == pytest.approx(6 / 3**0.5)


@pytest.mark.parametrize(("name", "bits"), [("ttq", 1), ("xnor", 2), ("binaryconnect", 3), ("lsq", 1), ("wrpn", 1), ("shin", 9)])
def test_bits_that_a_quantizer_lacks_are_refused(name: str, bits: int) -> None:
    with pytest.raises(ValidationError, match=f"quantizer '{name}' has no {bits} bits"):
        Weights.model_validate({"quantizer": name, "bits": bits})
