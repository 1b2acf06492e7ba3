"""Hint losses: the mean squared difference between a layer of the student and one of the teacher (Romero et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.errors import SpecError
from kdsearch.spec.recipe import Hint
from kdsearch.training.streams import stream


class Adaptor(nn.Module):
    """Brings a student's features to the teacher's channels: 1×1 convolution (or linear), identity where they agree."""

    def __init__(self, channels: int, wanted: int, spatial: bool) -> None:
        super().__init__()
        self.map: nn.Module = nn.Identity()
        if channels != wanted:
            self.map = nn.Conv2d(channels, wanted, 1, bias=False) if spatial else nn.Linear(channels, wanted, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, …) → (B, wanted, …)."""
        found: Tensor = self.map(x)
        return found


class Hints(nn.Module):
    """Watches both networks' layers and gives the sum of weighted hint losses of the last forward passes.

    Where spatial sizes differ, the larger features are averaged down to the smaller ones (adaptive average pooling). Only the
    adaptors are parameters of this module; they are trained with the student and thrown away.
    """

    def __init__(self, hints: Sequence[Hint], student: nn.Module, teacher: nn.Module, shape: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        self._hints = tuple(hints)
        self._seen: dict[tuple[str, int], Tensor] = {}
        self._handles = []
        for index, hint in enumerate(hints):
            for side, network, name in (("student", student, hint.student), ("teacher", teacher, hint.teacher or hint.student)):
                layer = dict(network.named_modules()).get(name)
                if layer is None or not name:
                    known = ", ".join(name for name, _ in network.named_children())
                    raise SpecError(f"the {side} has no layer {name!r}; among its layers: {known}", key=f"distill.hints.{index}.{side}")
                self._handles.append(layer.register_forward_hook(self._watch(side, index)))
        self.adaptors = nn.ModuleList()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(stream(seed, "hints"))
            for network in (student, teacher):
                training = network.training
                network.eval()(torch.zeros(1, *shape))
                network.train(training)
            for index in range(len(self._hints)):
                mine, theirs = self._seen["student", index], self._seen["teacher", index]
                if mine.dim() != theirs.dim():
                    raise SpecError(
                        f"layers of {mine.dim()} and {theirs.dim()} dimensions cannot be compared", key=f"distill.hints.{index}"
                    )
                self.adaptors.append(Adaptor(mine.shape[1], theirs.shape[1], spatial=mine.dim() == 4))
        self._seen.clear()

    def _watch(self, side: str, index: int) -> Any:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            self._seen[side, index] = output

        return keep

    def forward(self, detach: bool = True) -> Tensor:
        """Sum of weight × mean squared difference, over what the last forward passes left behind; forgets it.

        With ``detach`` no gradient goes to the teacher.
        """
        total: Tensor | None = None
        for index, hint in enumerate(self._hints):
            mine, theirs = self.adaptors[index](self._seen["student", index]), self._seen["teacher", index]
            theirs = theirs.detach() if detach else theirs
            if mine.dim() == 4 and mine.shape[-2:] != theirs.shape[-2:]:
                smaller = (min(mine.shape[-2], theirs.shape[-2]), min(mine.shape[-1], theirs.shape[-1]))
                mine, theirs = F.adaptive_avg_pool2d(mine, smaller), F.adaptive_avg_pool2d(theirs, smaller)
            term = F.mse_loss(mine.float(), theirs.float()) * hint.weight
            total = term if total is None else total + term
        self._seen.clear()
        assert total is not None
        return total

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
