"""ResNet-18, 34 and 50 for ImageNet-size pictures, with the parameter names and shapes of torchvision's at width 1.

torchvision's own share one ReLU within a block, and have no width factor for basic blocks; here each activation is a module of
its own and every width is multiplied. A ``state_dict`` of torchvision's fits at width 1.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from kdsearch.errors import SpecError

LAYERS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
}
"""Name → (bottleneck blocks, blocks in each of the four stages)."""


class Block(nn.Module):
    """A basic (two 3×3) or bottleneck (1×1, 3×3 strided, 1×1 ×4) residual block."""

    def __init__(self, channels_in: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = planes * 4 if bottleneck else planes
        self.bottleneck = bottleneck
        self.conv1 = nn.Conv2d(channels_in, planes, 1, bias=False) if bottleneck else _conv3(channels_in, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3(planes, planes, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU()
        if bottleneck:
            self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
            self.relu3 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, H/stride, W/stride)."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu2(y)))
            out: Tensor = self.relu3(y + self.downsample(x))
        else:
            out = self.relu2(y + self.downsample(x))
        return out


def _conv3(channels_in: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)


class ImageNetResNet(nn.Module):
    """7×7 stem, max-pooling, four stages (He et al. 2016)."""

    def __init__(self, bottleneck: bool, layers: tuple[int, int, int, int], width: float, in_channels: int, classes: int) -> None:
        super().__init__()
        planes = [int(base * width) for base in (64, 128, 256, 512)]
        if planes[0] < 1:
            raise SpecError(f"width {width:g} leaves {planes[0]} channels of 64", key="model.width", hint="at least 0.0157")
        channels = planes[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, (wide, blocks) in enumerate(zip(planes, layers, strict=True), start=1):
            stage = []
            for index in range(blocks):
                stage.append(Block(channels, wide, 2 if index == 0 and number > 1 else 1, bottleneck))
                channels = wide * 4 if bottleneck else wide
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → logits (B, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = cast(nn.Module, stage)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def imagenet_resnet(name: str, width: float, *, in_channels: int, classes: int) -> ImageNetResNet:
    """ResNet ``name`` of :data:`LAYERS`."""
    bottleneck, layers = LAYERS[name]
    return ImageNetResNet(bottleneck, layers, width, in_channels, classes)
