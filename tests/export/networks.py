"""A network that is not the project's own."""

from __future__ import annotations

from torch import nn


def plain(num_classes: int, in_channels: int, width: float) -> nn.Module:
    """A ReLU that is used twice, a grouped convolution, no pooling."""
    channels = int(16 * width)
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        relu,
        nn.Conv2d(channels, channels, 3, stride=2, groups=4),
        nn.BatchNorm2d(channels),
        relu,
        nn.Flatten(),
        nn.Linear(channels * 9, num_classes),
    )
