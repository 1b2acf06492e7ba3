"""Sizes of the networks against the counts of the literature, and shortcuts at awkward widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdsearch.errors import SpecError
from kdsearch.spec.recipe import CIFAR_RESNETS, Model
from kdsearch.training.models import CifarResNet, PadShortcut, build, multiply_adds, parameters


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1, 269_722), (1.2, 379_801), (1.5, 605_026), (1.7, 765_217), (2, 1_073_962), (3, 2_412_730), (4, 4_286_026), (5, 6_693_850)],
)
def test_resnet20_with_shortcut_a_has_the_known_number_of_parameters(width: float, expected: int) -> None:
    assert parameters(CifarResNet(20, width)) == expected


def test_resnet20_of_ten_times_the_width_has_26_75_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters(CifarResNet(20, 10)) == pytest.approx(26.75e6, rel=1e-3)


def test_100_classes_and_shortcut_b_add_what_they_should() -> None:
    assert parameters(CifarResNet(20, classes=100)) == 275_572
    # Two projections: 16·32 and 32·64 weights, and batch norms of 32 and 64 channels with two values each.
    assert parameters(CifarResNet(20, shortcut="B")) == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameters(CifarResNet(20, 1.2, shortcut="B")) == 379_801 + 19 * 38 + 38 * 76 + 2 * (38 + 76)


def test_multiply_adds_are_40_6_million_and_a_billion_at_five_times_the_width() -> None:
    assert multiply_adds(CifarResNet(20), (3, 32, 32)) == pytest.approx(40.6e6, rel=2e-3)
    assert multiply_adds(CifarResNet(20, 5), (3, 32, 32)) == pytest.approx(1005e6, rel=2e-3)


@pytest.mark.parametrize("width", [1.2, 1.5, 1.7])
@pytest.mark.parametrize("widen_stem", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_widths_are_truncated_and_every_combination_runs(width: float, widen_stem: bool, shortcut: str) -> None:
    model = CifarResNet(8, width, shortcut=shortcut, widen_stem=widen_stem)
    widths = [stage[0].conv1.out_channels for stage in (model.stage1, model.stage2, model.stage3)]
    assert widths == {1.2: [19, 38, 76], 1.5: [24, 48, 96], 1.7: [27, 54, 108]}[width]
    assert model.conv1.out_channels == (widths[0] if widen_stem else 16)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_shortcut_a_pads_the_actual_difference() -> None:
    x = torch.randn(2, 16, 6, 6)
    y = PadShortcut(16, 19, 2)(x)
    assert y.shape == (2, 19, 3, 3)
    assert torch.equal(y[:, 1:17], x[:, :, ::2, ::2])
    assert not y[:, :1].any() and not y[:, 17:].any()


@pytest.mark.parametrize("name", CIFAR_RESNETS)
def test_every_cifar_resnet_has_its_depth_and_a_relu_for_each_activation(name: str) -> None:
    model = build(Model(architecture=name, width=0.25), in_channels=1, classes=10, seed=0)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    depth = int(name.removeprefix("resnet"))
    assert len(convolutions) + 1 == depth
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == depth - 1
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)])
def test_imagenet_resnets_take_torchvisions_weights_and_give_its_logits(name: str, expected: int) -> None:
    from torchvision import models

    with torch.device("meta"):
        theirs = getattr(models, name)()
        ours = build(Model(architecture=name), in_channels=3, classes=1000, seed=0)
    assert parameters(ours) == expected
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


def test_resnet18_gives_torchvisions_logits_for_its_weights() -> None:
    from torchvision import models

    theirs = models.resnet18(num_classes=5).eval()
    ours = build(Model(architecture="resnet18"), in_channels=3, classes=5, seed=0).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_initial_weights_come_from_the_seed_alone_and_leave_the_callers_random_numbers_alone() -> None:
    model = Model(architecture="resnet8", width=0.25)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build(model, in_channels=1, classes=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv1.weight, again.conv1.weight)  # type: ignore[arg-type]
    assert not torch.equal(first.conv1.weight, other.conv1.weight)  # type: ignore[arg-type]


def test_a_width_that_leaves_no_channel_is_refused() -> None:
    with pytest.raises(SpecError, match="0 channels"):
        build(Model(architecture="resnet8", width=0.05), in_channels=1, classes=10, seed=0)
