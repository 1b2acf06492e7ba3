"""Quantizers on a network: which layers, when step sizes are computed, stages, and states under plain names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdsearch.spec.precision import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, Precision
from kdsearch.training.imagenet_resnet import imagenet_resnet
from kdsearch.training.models import CifarResNet
from kdsearch.training.quantizers import (
    Quantizers,
    apply_precision,
    cached,
    canonical_name,
    canonical_state,
    load_canonical_state,
    quantized_layers,
)

TWO_BITS = {"quantizer": "shin", "bits": 2}


def plain(seed: int = 0, **options: Any) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(8, 0.25, in_channels=1, **options)


def quantized(seed: int = 0, **precision: Any) -> CifarResNet:
    model = plain(seed, shortcut="B")
    apply_precision(model, Precision.model_validate(precision))
    return model


def batch(seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def train(model: nn.Module, steps: int, start: int = 0, total: int = 100) -> None:
    """Plain SGD, so that a resumed run has no optimizer state to restore."""
    optimizer, quantizers = torch.optim.SGD(model.parameters(), lr=0.05), Quantizers([model])
    for done in range(start, start + steps):
        quantizers.set_progress([done / total])
        optimizer.zero_grad()
        x, y = batch(done)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        quantizers.after_step([done + 1])


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in canonical_state(model).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps_of(model: nn.Module) -> list[float]:
    return [quantizer.get_buffer("step").item() for _, quantizer in quantized_layers(model).values()]


def ternary(weight: Tensor) -> bool:
    return len(weight.unique()) <= 3


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ((), set()),
        (("first",), {"conv1"}),
        (("last",), {"fc"}),
        (("shortcuts",), {"stage2.0.shortcut.0", "stage3.0.shortcut.0"}),
        (("first", "last", "shortcuts"), {"conv1", "fc", "stage2.0.shortcut.0", "stage3.0.shortcut.0"}),
    ],
)
def test_kept_layers_stay_full_precision_and_all_others_are_quantized(keep: tuple[str, ...], left: set[str]) -> None:
    model = quantized(weights=TWO_BITS, keep=keep)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert set(layers) - set(quantized_layers(model)) == left
    for name, module in layers.items():
        assert ternary(module.weight) == (name not in left)


def test_shortcuts_of_imagenet_networks_are_their_downsample_convolutions() -> None:
    model = imagenet_resnet("resnet18", 0.125, in_channels=3, classes=4)
    apply_precision(
        model, Precision.model_validate({"weights": TWO_BITS, "activations": {"quantizer": "pact", "bits": 2}, "keep": ["shortcuts"]})
    )
    names = set(quantized_layers(model))
    assert len(names) == 18 and not any("downsample" in name for name in names)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    clips = [parameter for name, parameter in model.named_parameters() if name.endswith("clip")]
    assert len(clips) == 17 and all(clip.grad is not None for clip in clips)


@pytest.mark.parametrize("keep", [(), ("first",), ("last",)])
def test_activations_that_the_last_layer_reads_are_full_precision_where_it_is_kept(keep: tuple[str, ...]) -> None:
    model = quantized(activations={"quantizer": "dorefa", "bits": 2}, keep=keep)
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, args, output, name=name: seen.__setitem__(name, output.detach()))
    model(batch()[0])
    assert len(seen) == 7
    for name, output in seen.items():
        assert (len(output.unique()) <= 4) == (name != "stage3.0.relu2" or "last" not in keep)


@pytest.mark.parametrize(
    ("weights", "activations"),
    [*((name, None) for name in WEIGHT_QUANTIZERS), *((None, name) for name in ACTIVATION_QUANTIZERS), ("ttq", "pact"), ("wrpn", "wrpn")],
)
def test_with_every_quantizer_training_makes_the_loss_fall(weights: str | None, activations: str | None) -> None:
    model = quantized(
        weights=weights and {"quantizer": weights, "bits": WEIGHT_QUANTIZERS[weights].bits[0]},
        activations=activations and {"quantizer": activations, "bits": 4},
    )
    x, y = batch()
    optimizer, quantizers = torch.optim.Adam(model.parameters(), lr=0.01), Quantizers([model])
    losses = []
    for done in range(8):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        quantizers.after_step([done + 1])
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_no_precision_leaves_the_network_as_it_is() -> None:
    model, untouched = plain(), plain()
    apply_precision(model, None)
    apply_precision(model, Precision())
    assert model.state_dict().keys() == untouched.state_dict().keys()
    assert torch.equal(model(batch()[0]), untouched(batch()[0]))


def test_a_network_is_quantized_only_once() -> None:
    model = quantized(weights=TWO_BITS)
    with pytest.raises(ValueError, match="has quantizers already"):
        apply_precision(model, Precision.model_validate({"weights": TWO_BITS}))


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ({"step_policy": "every_step"}, [True, True, True, True]),
        ({"step_policy": "every_k", "every": 2}, [False, True, False, True]),
        ({"step_policy": "every_k", "every": 3}, [False, False, True, False]),
        ({"step_policy": "once"}, [False, False, False, False]),
    ],
)
def test_step_sizes_are_computed_again_when_their_policy_says(options: dict[str, Any], moved: list[bool]) -> None:
    model = quantized(weights={**TWO_BITS, **options})
    found = []
    for done in range(4):
        before = steps_of(model)
        train(model, 1, start=done)
        found.append(before != steps_of(model))
    assert found == moved


def test_after_each_step_the_step_size_belongs_to_the_weights_that_are_evaluated() -> None:
    model = quantized(weights=TWO_BITS)
    train(model, 3)
    before = steps_of(model)
    Quantizers([model]).after_step([3])
    assert steps_of(model) == before
    model.eval()
    x = batch()[0]
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
    assert steps_of(model) == before


def test_cached_weights_give_the_same_outputs() -> None:
    model = quantized(weights=TWO_BITS).eval()
    x = batch()[0]
    with torch.no_grad():
        outside = model(x)
        with cached():
            assert torch.equal(model(x), outside)
            assert model.conv1.weight is model.conv1.weight


def test_step_sizes_of_layers_together_are_those_of_each_alone() -> None:
    for granularity in ("tensor", "filter"):
        model = quantized(weights={**TWO_BITS, "bits": 4, "granularity": granularity})
        train(model, 2)
        for master, quantizer in quantized_layers(model).values():
            together = quantizer.get_buffer("step").clone()
            quantizer.start(master.detach())
            assert torch.equal(together, quantizer.get_buffer("step"))


def test_binaryconnect_clips_its_master_weights_after_a_step_and_nothing_else() -> None:
    model = quantized(weights={"quantizer": "binaryconnect"}, keep=["last"])
    with torch.no_grad():
        for master, _ in quantized_layers(model).values():
            master.mul_(100)
        model.fc.weight.mul_(100)
    Quantizers([model]).after_step([1])
    assert all(master.abs().max() == 1 for master, _ in quantized_layers(model).values())
    assert model.fc.weight.abs().max() > 1


@pytest.mark.parametrize(
    ("weights", "activations"), [*((name, None) for name in WEIGHT_QUANTIZERS), *(("shin", name) for name in ACTIVATION_QUANTIZERS)]
)
def test_states_have_plain_names_and_come_back_exactly(weights: str, activations: str | None) -> None:
    bits = WEIGHT_QUANTIZERS[weights].bits[0]
    precision = {"weights": {"quantizer": weights, "bits": bits}, "activations": activations and {"quantizer": activations, "bits": 4}}
    model, other = quantized(0, **precision), quantized(1, **precision)
    train(model, 2)
    state = snapshot(model)
    own = {name for name in state if not name.startswith("quantizer.")}
    assert own == set(plain(shortcut="B").state_dict())
    load_canonical_state(other, state)
    assert same(snapshot(other), state)
    x = batch()[0]
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_a_full_precision_state_starts_a_quantized_network_and_its_masters_go_back() -> None:
    full = plain(3, shortcut="B")
    model, at_once = quantized(0, weights={"quantizer": "lsq", "bits": 2}), plain(3, shortcut="B")
    load_canonical_state(model, snapshot(full))
    apply_precision(at_once, Precision.model_validate({"weights": {"quantizer": "lsq", "bits": 2}}))
    assert same(snapshot(model), snapshot(at_once))
    train(model, 2)
    back = plain(shortcut="B")
    load_canonical_state(back, snapshot(model))
    masters = {name: tensor for name, tensor in snapshot(model).items() if not name.startswith("quantizer.")}
    assert same(snapshot(back), masters)


def test_another_precision_starts_from_the_master_weights_alone() -> None:
    four, two = quantized(0, weights={**TWO_BITS, "bits": 4}), quantized(1, weights=TWO_BITS)
    train(four, 2)
    load_canonical_state(two, snapshot(four), quantizers=False)
    fresh = plain(shortcut="B")
    load_canonical_state(fresh, snapshot(four))
    apply_precision(fresh, Precision.model_validate({"weights": TWO_BITS}))
    assert same(snapshot(two), snapshot(fresh))


def test_weights_that_do_not_fit_are_named() -> None:
    state = snapshot(plain())
    del state["fc.bias"]
    state["extra"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(1, 2)
    with pytest.raises(RuntimeError, match=r"conv1.weight is \(1, 2\).*(?s:.)*extra is not in the network; fc.bias is missing"):
        load_canonical_state(plain(), state)


def test_learned_parameters_of_quantizers_can_be_told_from_weights_by_name() -> None:
    model = quantized(weights={"quantizer": "ttq"}, activations={"quantizer": "pact", "bits": 4})
    names = {canonical_name(name) for name, _ in model.named_parameters()}
    assert {name for name in names if not name.startswith("quantizer.")} == {name for name, _ in plain(shortcut="B").named_parameters()}
    assert "quantizer.stage1.0.conv1.weight.stages.0.positive" in names
    assert "quantizer.stage1.0.relu1.stages.0.clip" in names


STAGED = {
    "weights": {"quantizer": "ttq"},
    "activations": {"quantizer": "lsq", "bits": 2},
    "stages": [
        {"until": 0.2, "weights": {"quantizer": "shin", "bits": 4}},
        {"until": 0.5, "weights": {"quantizer": "lsq", "bits": 2}},
    ],
}


def test_stages_come_into_force_in_order_and_start_from_the_weights_of_their_moment() -> None:
    model = quantized(**STAGED)
    kinds = []
    for done in range(10):
        train(model, 1, start=done, total=10)
        now = quantized_layers(model)
        kinds.append((type(now["conv1"][1]).__name__, len(model.relu(torch.rand(500)).unique()) <= 4))
    assert kinds == [("Shin", False)] * 2 + [("LSQWeights", False)] * 3 + [("TTQ", True)] * 5
    model = quantized(**STAGED)
    train(model, 2, total=10)
    Quantizers([model]).set_progress([0.2])
    master, quantizer = quantized_layers(model)["conv1"]
    assert quantizer.get_parameter("step").item() == pytest.approx(2 * master.detach().abs().mean().item())


@pytest.mark.parametrize(
    "precision",
    [
        STAGED,
        {"weights": {**TWO_BITS, "bits": 4}},
        {"weights": {**TWO_BITS, "step_policy": "every_k", "every": 3}, "activations": {"quantizer": "lsq", "bits": 4}},
        {"weights": {**TWO_BITS, "step_policy": "once", "granularity": "filter"}, "activations": {"quantizer": "pact", "bits": 4}},
    ],
)
@pytest.mark.parametrize("cut", [2, 4])
def test_a_resumed_run_is_the_uninterrupted_run(precision: dict[str, Any], cut: int) -> None:
    whole = quantized(**precision)
    train(whole, 8, total=10)
    first = quantized(**precision)
    train(first, cut, total=10)
    second = quantized(7, **precision)
    load_canonical_state(second, snapshot(first))
    train(second, 8 - cut, start=cut, total=10)
    assert same(snapshot(second), snapshot(whole))


def test_a_copied_network_has_quantizers_of_its_own() -> None:
    model = quantized(weights=TWO_BITS)
    copied = copy.deepcopy(model)
    before = steps_of(model)
    train(copied, 2)
    assert steps_of(model) == before and steps_of(copied) != before


@pytest.mark.parametrize("granularity", ["tensor", "filter"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_weights_quantized_in_one_pass_are_those_quantized_one_by_one_and_so_are_gradients(bits: int, granularity: str) -> None:
    options = {"quantizer": "shin", "bits": bits, "granularity": granularity}
    one, all_at_once = (quantized(weights=options, activations={"quantizer": "lsq", "bits": 4}) for _ in range(2))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (one, all_at_once)]
    by_itself, together = Quantizers([one]), Quantizers([all_at_once])
    for step in range(3):
        x, y = batch(step)
        together.quantize()
        for model, optimizer in zip((one, all_at_once), optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        by_itself.after_step([step + 1])
        together.after_step([step + 1])
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), all_at_once.state_dict().values(), strict=True))
    first, second = quantized_layers(one), quantized_layers(all_at_once)
    assert all(torch.equal(first[name][0].grad, second[name][0].grad) for name in first)  # type: ignore[arg-type]
    with torch.no_grad():  # evaluation asks the masters as they are now, not as the step saw them
        x, _ = batch(9)
        assert torch.equal(one.eval()(x), all_at_once.eval()(x))
