"""Each system of the papers, trained for real on digits for a few epochs: what must change changes, what must not does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import load
from kdsearch.training.keys import key_of
from kdsearch.training.networks import load_trained
from kdsearch.training.quantizers.base import quantized_layers
from kdsearch.training.session import Session

Make = Callable[..., Recipe]
NETWORK = {"architecture": "resnet8", "width": 0.25}
WIDER = {"architecture": "resnet8", "width": 0.5}
EPOCHS = {"epochs": 4, "batch_size": 32, "learning_rate": 0.05}
START = {"model": NETWORK}
TEACHER = {"model": WIDER}
KD = {"teachers": [TEACHER], "temperature": 3, "coefficient": 0.5}
SHIN = {"weights": {"quantizer": "shin", "bits": 2}}
TTQ = {"weights": {"quantizer": "ttq"}, "activations": {"quantizer": "wrpn", "bits": 8}, "keep": ["first", "last"]}
DOREFA = {"weights": {"quantizer": "dorefa", "bits": 2}, "activations": {"quantizer": "dorefa", "bits": 2}, "keep": ["first", "last"]}
ASSISTANT = {"model": NETWORK, "distill": KD}

SYSTEMS: dict[str, dict[str, Any]] = {
    "shin_ht_kd": {"precision": SHIN, "init": START, "distill": KD},
    "shin_kd_kd_cr": {"precision": SHIN, "init": {**START, "distill": KD}, "distill": {**KD, "schedule": "cr_linear"}},
    "shin_one_bit": {"precision": {"weights": {"quantizer": "shin", "bits": 1}}, "init": START, "distill": KD},
    "shin_five_teachers": {"precision": SHIN, "init": START, "distill": {**KD, "teachers": [{"count": 5, **START}]}},
    "apprentice_a": {"precision": TTQ, "distill": {"cotrain": {"model": WIDER}, "temperature": 1, "coefficient": 0.5}},
    "apprentice_b": {"precision": TTQ, "distill": {**KD, "temperature": 1}},
    "apprentice_c": {"precision": TTQ, "init": START, "distill": {**KD, "temperature": 1}},
    "qdistill": {"precision": {"weights": {"quantizer": "qdistill", "bits": 2, "bucket": 256}}, "distill": KD},
    "qdistill_differentiable": {  # points alone cannot mend a bad start, so it gets a good one
        "data": {"name": "digits", "validation": 0.4, "train_fraction": 0.4, "augment": "shift"},
        "model": WIDER,
        "precision": {"weights": {"quantizer": "points", "bits": 2}},
        "init": {"model": WIDER, "optim": {"epochs": 12, "learning_rate": 0.1}},
        "distill": {**KD, "teachers": [{"model": WIDER, "optim": {"epochs": 12, "learning_rate": 0.1}}]},
        "optim": {**EPOCHS, "learning_rate": 0.001},
    },
    "guided": {
        "precision": {**DOREFA, "stages": [{"until": 0.5, "weights": DOREFA["weights"]}]},
        "init": START,
        "distill": {
            "cotrain": {"model": NETWORK, "init": START, "detach": False},
            "coefficient": 0,
            "hints": [{"student": "stage3", "weight": 0.1}],
        },
    },
    "alizadeh": {"precision": {"weights": {"quantizer": "xnor"}}, "distill": {**KD, "teachers": [START], "coefficient": 0.9}},
    "takd": {"precision": SHIN, "distill": {**KD, "teachers": [ASSISTANT]}},
}
LEVELS = {"shin": {1: 2, 2: 3}, "ttq": {2: 3}, "points": {2: 4}, "dorefa": {2: 4}}
"""Quantizer → bits → most distinct values of a layer. DoReFa's 2 bits are four levels, Shin's and TTQ's three."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all systems: they share starts and teachers, each trained once."""
    return Store(tmp_path_factory.mktemp("systems"))


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_learns_within_its_precision_and_leaves_trained_networks_alone(name: str, shared: Store, recipe: Make) -> None:
    made = recipe(**{"model": NETWORK, "optim": EPOCHS, **SYSTEMS[name]})
    assert made.precision is not None and made.precision.weights is not None and made.distill is not None
    for child in made.children().values():
        _train(child, shared)
    before = {key_of(child): shared.entry(key_of(child)).weights.read_bytes() for child in made.children().values()}
    with Session(made, shared) as session:
        joint = None if session.cotrained is None else _values(session.cotrained)
        rows = [session.step() for _ in range(made.optim.epochs)]
        if session.cotrained is not None and joint is not None:
            after = _values(session.cotrained)
            convolutions = [key for key in joint if key.endswith("weight") and joint[key].dim() == 4]
            assert all(not torch.equal(joint[key], after[key]) for key in convolutions), "the co-trained network learns too"
            assert not quantized_layers(session.cotrained), "and stays at full precision"
    # Where λ moves, the training loss is of another kind in each epoch; the validation loss is of hard labels throughout.
    measure = "train_loss" if made.distill.schedule.name == "constant" else "val_loss"
    assert rows[-1][measure] < rows[0][measure]
    assert {key: shared.entry(key).weights.read_bytes() for key in before} == before, "trained networks stay as they were"
    model = _network(made, shared)
    _check_precision(model, made)


def _train(recipe: Recipe, store: Store) -> None:
    with Session(recipe, store) as session:
        while not session.finished:
            session.step()


def _network(recipe: Recipe, store: Store) -> nn.Module:
    return load_trained(recipe, store, key=key_of(recipe), dataset=load(recipe.data))


def _distinct(values: Tensor) -> int:
    return len(set(values.flatten().tolist()))


def _check_precision(model: nn.Module, made: Recipe) -> None:
    assert made.precision is not None and made.precision.weights is not None
    options, keep = made.precision.weights, made.precision.keep
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    quantized = quantized_layers(model)
    assert set(quantized) == set(layers) - ({"conv1"} if "first" in keep else set()) - ({"fc"} if "last" in keep else set())
    for name, layer in layers.items():
        weight = layer.weight.detach()
        if name not in quantized:
            assert _distinct(weight) > 0.9 * weight.numel(), f"{name} is full precision"
        elif options.quantizer == "xnor":
            assert all(_distinct(filter_.abs()) == 1 and (filter_ != 0).all() for filter_ in weight)
        elif options.quantizer == "qdistill":
            assert all(_distinct(bucket) <= 4 for bucket in torch.split(weight.flatten(), 256))
        else:
            assert _distinct(weight) <= LEVELS[options.quantizer][options.bits], name


def test_differentiable_points_leave_the_weights_they_start_from(shared: Store, recipe: Make) -> None:
    made = recipe(**SYSTEMS["qdistill_differentiable"])
    assert made.init is not None
    _train(made, shared)
    start = _network(made.init, shared)
    masters = quantized_layers(_network(made, shared))
    assert masters
    for name, layer in start.named_modules():
        if name in masters:
            assert torch.equal(masters[name][0], layer.weight)


def test_a_chain_of_assistants_is_trained_from_its_far_end_each_once(shared: Store, recipe: Make) -> None:
    trained: list[str] = []
    made = recipe(model=NETWORK, optim={**EPOCHS, "epochs": 1}, **SYSTEMS["takd"])
    with Session(made, shared, on_progress=lambda event: trained.append(event["role"])) as session:
        while not session.finished:
            session.step()
    assert trained == ["teachers.0.teachers.0", "teachers.0", ""]
