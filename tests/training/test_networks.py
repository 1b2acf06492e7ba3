"""Weights people bring along, hints between layers, and co-training's three terms."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from kdsearch.errors import SpecError
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Hint, Model, Recipe
from kdsearch.training.hints import Hints
from kdsearch.training.keys import key_of
from kdsearch.training.losses import weighted
from kdsearch.training.models import CifarResNet, build
from kdsearch.training.session import Session
from kdsearch.training.train import train

Make = Callable[..., Recipe]
WIDE = {"architecture": "resnet8", "width": 0.5}


def _weights() -> dict[str, torch.Tensor]:
    return build(Model(**WIDE), in_channels=1, classes=10, seed=3).state_dict()


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "wrapped", "parallel"])
def test_a_brought_teacher_is_read_from_each_form_and_warned_about(tmp_path: Path, store: Store, recipe: Make, form: str) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    state = _weights()
    if form == "safetensors":
        save_file(state, path)
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save({"state_dict": state} if form == "wrapped" else state, path)
    made = recipe(model=WIDE, pretrained={"file": str(path)})
    metrics = train(made, store)
    assert len(metrics["epochs"]) == 1
    assert any("validation images" in warning for warning in metrics["warnings"])
    student = recipe(distill={"teachers": [{"model": WIDE, "pretrained": {"file": str(path)}}]})
    assert train(student, store)["final"]["teacher_accuracy"] == pytest.approx(metrics["final"]["val_accuracy"], abs=0.4)


def test_the_same_weights_in_another_place_have_the_same_key_and_other_weights_another(tmp_path: Path, recipe: Make) -> None:
    state = _weights()
    torch.save(state, tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, tmp_path / "c.pt")
    keys = [key_of(recipe(model=WIDE, pretrained={"file": str(tmp_path / f"{name}.pt")})) for name in "abc"]
    assert keys[0] == keys[1] != keys[2]


def test_weights_that_do_not_fit_are_named(tmp_path: Path, store: Store, recipe: Make) -> None:
    torch.save(_weights(), tmp_path / "w.pt")
    with pytest.raises(SpecError, match=r"w\.pt: weights do not fit.*\.weight is \("):
        train(recipe(pretrained={"file": str(tmp_path / "w.pt")}), store)


class _Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (open, ("/nonexistent-file-of-a-pickle",))


@pytest.mark.parametrize("content", [b"rubbish", pickle.dumps({"weight": _Trap()}), b""])
def test_a_file_that_is_no_weights_is_refused_without_running_it(tmp_path: Path, store: Store, recipe: Make, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(SpecError, match=r"w\.pt cannot be read as weights"):
        train(recipe(model=WIDE, pretrained={"file": str(tmp_path / "w.pt")}), store)


def test_a_hint_is_the_weighted_mean_squared_difference_of_the_two_layers() -> None:
    student, teacher = CifarResNet(8, 0.25, in_channels=1), CifarResNet(8, 0.25, in_channels=1)
    hints = Hints([Hint(student="stage2", weight=3.0)], student, teacher, (1, 8, 8), seed=0)
    images = torch.randn(4, 1, 8, 8)

    def features(network: CifarResNet) -> torch.Tensor:
        found: torch.Tensor = network.stage2(network.stage1(network.relu(network.bn1(network.conv1(images)))))
        return found

    student.eval(), teacher.eval()
    student(images), teacher(images)
    torch.testing.assert_close(hints(), 3 * F.mse_loss(features(student), features(teacher)))
    assert list(hints.parameters()) == []


def test_hints_between_other_channels_and_sizes_get_an_adaptor_and_pooling() -> None:
    student, teacher = CifarResNet(8, 0.25, in_channels=1), CifarResNet(8, 0.75, in_channels=1)
    hints = Hints([Hint(student="stage3", teacher="stage2")], student, teacher, (1, 8, 8), seed=0)
    student(torch.randn(2, 1, 8, 8)), teacher(torch.randn(2, 1, 8, 8))
    loss = hints()
    assert loss.isfinite()
    assert [tuple(p.shape) for p in hints.parameters()] == [(24, 16, 1, 1)]
    loss.backward()
    assert student.conv1.weight.grad is not None and teacher.conv1.weight.grad is None


def test_a_layer_that_is_not_there_is_told_with_those_that_are(store: Store, recipe: Make) -> None:
    made = recipe(distill={"teachers": [{"model": WIDE}], "hints": [{"student": "stage9"}]})
    with pytest.raises(SpecError, match=r"hints\.0\.student: the student has no layer 'stage9'; among its layers: conv1, bn1"):
        train(made, store)


def test_apprentices_three_terms_add_up(store: Store, recipe: Make) -> None:
    """α·H(y, p_T) + β·H(y, p_A) + γ·H(softmax(z_T), p_A), α = 1, β = γ = 0.5 (Apprentice, scheme A)."""
    distill = {
        "cotrain": {"model": WIDE},
        "temperature": 1,
        "coefficient": 0.5,
        "loss": {"soft": "cross_entropy", "temperature_squared": False, "hard_weight": 0.5},
    }
    made = recipe(distill=distill, data={"name": "digits", "validation": 0.4})
    with Session(made, store) as session:
        guidance = session._training.guidance
        assert session.cotrained is not None and guidance is not None
        images = session.dataset.normalise(session.dataset.train.images[:16])  # type: ignore[index]
        labels = session.dataset.train.labels[:16]
        apprentice, teacher = session.model(images), session.cotrained(images)
        terms = guidance.terms(0, images, labels, 0.5)
        assert terms.more is not None
        found = weighted(apprentice.unsqueeze(0), [terms])[0] + terms.more
        soft = -(teacher.softmax(1) * apprentice.log_softmax(1)).sum(1).mean()
        expected = F.cross_entropy(teacher, labels) + 0.5 * F.cross_entropy(apprentice, labels) + 0.5 * soft
        torch.testing.assert_close(found, expected)
