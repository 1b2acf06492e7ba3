"""Networks by name: CIFAR ResNets of 6n+2 layers, the ImageNet ResNets, and the user's own.

Each activation is an ``nn.ReLU`` of its own, so that an activation quantizer can follow each. CIFAR ResNets have the modules
``conv1, bn1, relu, stage1, stage2, stage3, pool, fc``, their blocks ``conv1, bn1, relu1, conv2, bn2, shortcut, relu2``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.errors import SpecError
from kdsearch.spec.recipe import CIFAR_RESNETS, IMAGENET_RESNETS, Model
from kdsearch.training.imagenet_resnet import imagenet_resnet
from kdsearch.training.streams import stream
from kdsearch.training.user_code import user_function


class PadShortcut(nn.Module):
    """Shortcut A (He et al. 2016): strided identity, zero channels added for the actual difference, half on each side.

    (B, in, H, W) → (B, out, ⌈H/stride⌉, ⌈W/stride⌉). Padding by a fixed ``planes/4`` breaks at widths such as 16 → 19.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        added = channels_out - channels_in
        if added < 0:
            raise SpecError(
                f"shortcut A cannot go from {channels_in} to {channels_out} channels", key="model.width", hint="use shortcut: B"
            )
        self.stride, self.before, self.after = stride, added // 2, added - added // 2

    def forward(self, x: Tensor) -> Tensor:
        """Shorten and pad."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, activations after the sum (post-activation)."""

    def __init__(self, channels_in: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            if shortcut == "A":
                self.shortcut = PadShortcut(channels_in, channels, stride)
            else:
                self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, H/stride, W/stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class CifarResNet(nn.Module):
    """ResNet of 6n+2 layers for small images (He et al. 2016), every width multiplied and truncated to int."""

    def __init__(
        self, depth: int, width: float = 1.0, *, shortcut: str = "A", widen_stem: bool = True, in_channels: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        widths = [int(planes * width) for planes in (16, 32, 64)]
        if widths[0] < 1:
            raise SpecError(f"width {width:g} leaves {widths[0]} channels of 16", key="model.width", hint="at least 0.0625")
        stem = widths[0] if widen_stem else 16
        self.conv1 = nn.Conv2d(in_channels, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.stage1 = self._stage(stem, widths[0], blocks, 1, shortcut)
        self.stage2 = self._stage(widths[0], widths[1], blocks, 2, shortcut)
        self.stage3 = self._stage(widths[1], widths[2], blocks, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
        first = BasicBlock(channels_in, channels, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → logits (B, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def build(model: Model, *, in_channels: int, classes: int, seed: int) -> nn.Module:
    """The network of ``model`` with the initial weights of ``seed``, on the CPU, in float32.

    A user's function is called with ``num_classes``, ``in_channels`` and ``width`` and returns an ``nn.Module``.
    """
    name = model.architecture
    make: Callable[[], nn.Module]
    if name in CIFAR_RESNETS:

        def make() -> nn.Module:
            depth = int(name.removeprefix("resnet"))
            shape = {"in_channels": in_channels, "classes": classes}
            return CifarResNet(depth, model.width, **shape, shortcut=model.shortcut, widen_stem=model.widen_stem)

    elif name in IMAGENET_RESNETS:

        def make() -> nn.Module:
            return imagenet_resnet(name, model.width, in_channels=in_channels, classes=classes)

    else:
        function = user_function(name)

        def make() -> nn.Module:
            made = function(num_classes=classes, in_channels=in_channels, width=model.width)
            if not isinstance(made, nn.Module):
                raise SpecError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module", key="model.architecture")
            return made

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "init"))
        return make()


def parameters(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolution and linear layers for one image of ``shape`` (C, H, W)."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            taps = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        else:
            assert isinstance(module, nn.Linear)
            taps = module.in_features
        total += output[0].numel() * taps

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
