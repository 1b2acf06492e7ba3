"""Several small networks of one architecture trained as one: an operation of the stack does what each network's own would.

A step of a network of a few channels goes into starting operations, not into arithmetic, so a stack of eight takes little longer than
one of them (figures in tests/benchmarks). Every network keeps its own weights, quantizers, optimizer and pictures; only the forward and
backward passes run together, as batched matrix products. What one network of the stack computes does not depend on the others, not by a
bit: the stack is a matter of speed alone, and networks may join and leave after any epoch.

Activations are laid out (networks K, channels C, height H, width W, batch B), so that the patches of a convolution are copied in runs of
whole batches. Networks whose patches outgrow the caches (:data:`MOST_PATCHES`) are faster by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from kdsearch.spec.recipe import CIFAR_RESNETS, Recipe
from kdsearch.training.models import BasicBlock, CifarResNet, PadShortcut
from kdsearch.training.quantizers.base import weight_of

MOST_PATCHES = 300_000
"""Floats in the patches of a network's largest 3×3 convolution, at most, to be trained in this way."""
STACK_PATCHES = 900_000
"""The same of a whole stack; and at most :data:`MOST_NETWORKS`."""
MOST_NETWORKS = 16


def stack_size(recipe: Recipe, shape: tuple[int, int, int], device: str, threads: int) -> int:
    """Networks of ``recipe`` that are best trained as one stack, for pictures of ``shape`` (C, H, W); 0: it does not go into one.

    A function of the recipe, the data, the device and the number of threads alone, since the arithmetic of a stack, even of one network,
    is not that of torch's own convolutions.
    """
    precision, distill = recipe.precision, recipe.distill
    plain = recipe.model.architecture in CIFAR_RESNETS and recipe.optim.dtype == "float32" and recipe.pretrained is None
    quantized = precision is not None and any([precision.activations, *(stage.activations for stage in precision.stages)])
    if device != "cpu" or threads != 1 or not plain or quantized or (distill is not None and distill.hints):
        return 0
    channels = max(int(16 * recipe.model.width), 16 if not recipe.model.widen_stem else 1)
    patches = 9 * channels * shape[1] * shape[2] * recipe.optim.batch_size
    return 0 if patches > MOST_PATCHES else min(MOST_NETWORKS, STACK_PATCHES // patches)


class _Convolution(Function):
    """Convolution of each network's images with its own filters: patches, then one batched matrix product.

    x (K, C, H, W, B), weight (K, O, C, k, k) → (K, O, H', W', B).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        networks, filters, channels, side, _ = weight.shape
        _, _, height, width, batch = x.shape
        padded = x.new_zeros(networks, channels, height + 2 * padding, width + 2 * padding, batch)
        padded[:, :, padding : padding + height, padding : padding + width] = x
        rows, columns = (height + 2 * padding - side) // stride + 1, (width + 2 * padding - side) // stride + 1
        patches = _patches(padded, side, stride, rows, columns)
        flat = weight.reshape(networks, filters, -1)
        ctx.save_for_backward(patches, flat)
        ctx.sizes = (x.shape, weight.shape, stride, padding, rows, columns)
        return torch.bmm(flat, patches).view(networks, filters, rows, columns, batch)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        patches, flat = ctx.saved_tensors
        (networks, channels, height, width, batch), shape, stride, padding, rows, columns = ctx.sizes
        filters, side = shape[1], shape[3]
        grad = grads[0].reshape(networks, filters, -1)
        of_weight = torch.bmm(grad, patches.transpose(1, 2)).view(shape)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        # The transposed convolution: gradients spread out by the stride, convolved with the filters turned round.
        spread = grad.new_zeros(networks, filters, height + side - 1, width + side - 1, batch)
        edge = side - 1 - padding
        target = spread[:, :, edge : edge + stride * rows : stride, edge : edge + stride * columns : stride]
        target.copy_(grad.view(networks, filters, rows, columns, batch))
        turned = flat.view(shape).flip(3, 4).transpose(1, 2).reshape(networks, channels, -1)
        of_x = torch.bmm(turned, _patches(spread, side, 1, height, width)).view(networks, channels, height, width, batch)
        return of_x, of_weight, None, None


def _patches(x: Tensor, side: int, stride: int, rows: int, columns: int) -> Tensor:
    """(K, C, H, W, B) → (K, C·side·side, rows·columns·B)."""
    networks, channels, _, _, batch = x.shape
    k, c, h, w, b = x.stride()
    view = x.as_strided((networks, channels, side, side, rows, columns, batch), (k, c, h, w, h * stride, w * stride, b))
    return view.reshape(networks, channels * side * side, rows * columns * batch)


class Stack:
    """Networks that train together until :meth:`close`, which hands them the running statistics of their batch normalisations."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """``networks``: of one architecture, quantized alike or not; in training mode, on the CPU."""
        self._first = cast(CifarResNet, networks[0])
        kinds = nn.Conv2d | nn.BatchNorm2d | nn.Linear
        names: dict[nn.Module, str] = {module: name for name, module in self._first.named_modules() if isinstance(module, kinds)}
        self._peers = {module: [network.get_submodule(name) for network in networks] for module, name in names.items()}
        self._weights = {module: [weight_of(peer) for peer in peers] for module, peers in self._peers.items()}
        self._affine = {
            module: ([cast(Tensor, peer.weight) for peer in peers], [cast(Tensor, peer.bias) for peer in peers])
            for module, peers in self._peers.items()
            if isinstance(module, nn.BatchNorm2d)
        }
        self._biases = [cast(Tensor, peer.bias) for peer in self._peers[self._first.fc]]
        self._statistics = {
            module: tuple(torch.cat([cast(Tensor, getattr(peer, name)) for peer in peers]) for name in ("running_mean", "running_var"))
            for module, peers in self._peers.items()
            if isinstance(module, nn.BatchNorm2d)
        }
        self._steps = 0

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Logits (K, B, classes) of each network for its own pictures, each (B, C, H, W)."""
        self._steps += 1
        first = self._first
        x = torch.stack([of_network.permute(1, 2, 3, 0) for of_network in images])
        x = torch.relu(self._normalised(first.bn1, self._convolved(first.conv1, x)))
        for stage in (first.stage1, first.stage2, first.stage3):
            for block in stage:
                x = self._block(cast(BasicBlock, block), x)
        bias = torch.stack(self._biases).unsqueeze(1)
        return torch.baddbmm(bias, x.mean((2, 3)).transpose(1, 2), self._weight(first.fc).transpose(1, 2))

    def close(self) -> None:
        """Hand the running statistics over; after the last step, before a network is used by itself."""
        for module, statistics in self._statistics.items():
            peers = self._peers[module]
            for name, values in zip(("running_mean", "running_var"), statistics, strict=True):
                for peer, value in zip(peers, values.chunk(len(peers)), strict=True):
                    cast(Tensor, getattr(peer, name)).copy_(value)
            for peer in peers:
                cast(Tensor, peer.num_batches_tracked).add_(self._steps)

    def _block(self, block: BasicBlock, x: Tensor) -> Tensor:
        y = torch.relu(self._normalised(block.bn1, self._convolved(block.conv1, x)))
        y = self._normalised(block.bn2, self._convolved(block.conv2, y))
        shortcut = block.shortcut
        if isinstance(shortcut, PadShortcut):
            x = F.pad(x[:, :, :: shortcut.stride, :: shortcut.stride], (0, 0, 0, 0, 0, 0, shortcut.before, shortcut.after))
        elif isinstance(shortcut, nn.Sequential):
            x = self._normalised(cast(nn.BatchNorm2d, shortcut[1]), self._convolved(cast(nn.Conv2d, shortcut[0]), x))
        return torch.relu(y + x)

    def _weight(self, layer: nn.Module) -> Tensor:
        return torch.stack([weight() for weight in self._weights[layer]])

    def _convolved(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        found: Tensor = _Convolution.apply(x, self._weight(layer), layer.stride[0], cast(tuple[int, int], layer.padding)[0])
        return found

    def _normalised(self, layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """As one batch normalisation of K·C channels."""
        mean, variance = self._statistics[layer]
        weight, bias = (torch.cat(values) for values in self._affine[layer])
        flat = x.reshape(1, -1, *x.shape[2:])
        return F.batch_norm(flat, mean, variance, weight, bias, True, layer.momentum or 0.0, layer.eps).view(x.shape)
