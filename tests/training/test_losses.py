"""Loss conventions against values worked out by hand.

Two images, two classes. With logits (a, b) at temperature τ the first class has probability σ((a − b)/τ). Student (2 ln 3, 0) and
(0, 0), teacher (2 ln 2, 0) and (0, 2 ln 2), τ = 2: p_S = (3/4, 1/4), (1/2, 1/2); p_T = (2/3, 1/3), (1/3, 2/3).
"""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch.nn import functional

from kdsearch.spec.recipe import Distill, Recipe
from kdsearch.training.losses import distillation, distillation_value, entropy, soft_targets

STUDENT = torch.tensor([[2 * log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[2 * log(2), 0.0], [0.0, 2 * log(2)]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])

HARD = (log(10 / 9) + log(2)) / 2  # softmax of (2 ln 3, 0) is (9/10, 1/10)
SOFT = ((2 / 3) * log(4 / 3) + (1 / 3) * log(4) + log(2)) / 2  # mean of H(p_T, p_S)
ENTROPY = log(3) - (2 / 3) * log(2)  # of (2/3, 1/3)
SQUARES = ((log(3) - log(2)) ** 2 + log(2) ** 2) / 2  # mean over images of ‖(z_T − z_S)/2‖²


def _distill(**loss: Any) -> Distill:
    return Distill(teachers=(Recipe(),), temperature=2.0, coefficient=0.25, loss=loss)


def _value(coefficient: float = 0.25, **loss: Any) -> float:
    return float(distillation_value(STUDENT, LABELS, [TEACHER], _distill(**loss), coefficient))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"soft": "cross_entropy", "temperature_squared": False}, 0.75 * HARD + 0.25 * SOFT),  # Shin et al. Eq. 3
        ({"soft": "cross_entropy"}, 0.75 * HARD + 0.25 * 4 * SOFT),
        ({"soft": "kl"}, 0.75 * HARD + 0.25 * 4 * (SOFT - ENTROPY)),  # Hinton et al.
        ({"soft": "kl", "temperature_squared": False}, 0.75 * HARD + 0.25 * (SOFT - ENTROPY)),
        ({"soft": "kl", "reduction": "element_mean"}, 0.75 * HARD + 0.25 * 4 * (SOFT - ENTROPY) / 2),
        ({"soft": "kl", "hard_weight": 2.0}, 2 * HARD + 0.25 * 4 * (SOFT - ENTROPY)),
        ({"soft": "kl", "hard_weight": 0.0}, 0.25 * 4 * (SOFT - ENTROPY)),
        ({"soft": "mse_logits"}, 0.75 * HARD + 0.25 * 4 * SQUARES),
        ({"soft": "mse_logits", "temperature_squared": False}, 0.75 * HARD + 0.25 * SQUARES),
        ({"soft": "mse_logits", "reduction": "element_mean"}, 0.75 * HARD + 0.25 * 4 * SQUARES / 2),
    ],
)
def test_each_convention_gives_the_value_worked_out_by_hand(loss: dict[str, Any], expected: float) -> None:
    assert _value(**loss) == pytest.approx(expected, rel=1e-6)


def test_coefficients_0_and_1_leave_one_term() -> None:
    assert _value(0.0) == pytest.approx(HARD, rel=1e-6)
    assert _value(1.0, soft="cross_entropy", temperature_squared=False) == pytest.approx(SOFT, rel=1e-6)


def test_kl_is_torchs_and_zero_for_a_student_that_agrees() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    teacher = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    distill = _distill(hard_weight=0.0)
    found = distillation_value(logits, torch.zeros(6, dtype=torch.int64), [teacher], distill, 1.0)
    reference = torch.nn.functional.kl_div(
        (logits / 2).log_softmax(1), (teacher / 2).log_softmax(1), reduction="batchmean", log_target=True
    )
    assert float(found) == pytest.approx(4 * float(reference), rel=1e-5)
    assert float(distillation_value(teacher, torch.zeros(6, dtype=torch.int64), [teacher], distill, 1.0)) == pytest.approx(0, abs=1e-6)


def test_several_teachers_average_softened_probabilities_not_logits() -> None:
    other = torch.tensor([[0.0, 0.0], [2 * log(3), 0.0]], dtype=torch.float64)  # (1/2, 1/2), (3/4, 1/4) at τ = 2
    loss = _distill().loss
    averaged = soft_targets([TEACHER, other], loss, 2.0)
    torch.testing.assert_close(averaged, torch.tensor([[7 / 12, 5 / 12], [13 / 24, 11 / 24]], dtype=torch.float64))
    of_logits = soft_targets([(TEACHER + other) / 2], loss, 2.0)
    assert float((averaged - of_logits).abs().max()) > 0.005
    torch.testing.assert_close(soft_targets([TEACHER, TEACHER], loss, 2.0), soft_targets([TEACHER], loss, 2.0))


def test_entropy_is_in_nats() -> None:
    found = entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0], [2 / 3, 1 / 3]]))
    torch.testing.assert_close(found, torch.tensor([log(2), 0.0, ENTROPY]))


def _gradient(temperature: float, squared: bool) -> float:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    loss = {"temperature_squared": squared, "hard_weight": 0.0}
    distill = Distill(teachers=(Recipe(),), temperature=temperature, coefficient=1.0, loss=loss)
    distillation_value(student, torch.zeros(8, dtype=torch.int64), [teacher], distill, 1.0).backward()
    assert student.grad is not None
    return float(student.grad.norm())


def test_the_soft_gradient_shrinks_with_temperature_unless_it_is_multiplied_by_its_square() -> None:
    assert _gradient(40, squared=False) < 0.07 * _gradient(10, squared=False)  # as 1/τ²
    assert 0.8 < _gradient(40, squared=True) / _gradient(10, squared=True) < 1.25


@pytest.mark.parametrize("soft", ["cross_entropy", "kl", "mse_logits"])
@pytest.mark.parametrize(("coefficient", "temperature"), [(0.3, 4.0), (0.0, 2.0), (1.0, 1.0)])
def test_the_closed_gradient_is_autograd_s(soft: str, coefficient: float, temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    distill = Distill(teachers=(Recipe(),), temperature=temperature, coefficient=coefficient, loss={"soft": soft})
    targets = soft_targets([teacher], distill.loss, temperature)
    found = distillation(student, labels, targets, distill, coefficient)
    hard = functional.cross_entropy(student, labels)
    if soft == "mse_logits":
        soft_term = (student / temperature - targets).square().sum(1).mean()
    else:
        soft_term = functional.cross_entropy(student / temperature, targets)
    expected = (1 - coefficient) * hard + coefficient * temperature**2 * soft_term
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found * 3, (student, teacher), retain_graph=True, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected * 3, (student, teacher), allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
