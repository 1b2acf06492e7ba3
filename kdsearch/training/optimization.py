"""Optimizers: parameter groups, and their state as plain tensors."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdsearch.spec.recipe import Optim


def decayed(model: nn.Module) -> list[nn.Parameter]:
    """Weights of convolution and linear layers (the master weights where quantized): what weight decay acts on."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            if parametrize.is_parametrized(module, "weight"):
                found.append(module.parametrizations["weight"].original)  # type: ignore[index,union-attr]
            else:
                found.append(module.weight)
    return [parameter for parameter in found if isinstance(parameter, nn.Parameter)]


@functools.lru_cache
def _plain(kind: Any) -> Any:
    """``kind`` without what keeps torch's compiler off it: at the first call that loads the compiler, 2 s in every worker."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**own, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def make_optimizer(optim: Optim, *networks: nn.Module) -> torch.optim.Optimizer:
    """One optimizer for all parameters of ``networks``; weight decay on convolution and linear weights only."""
    groups: list[dict[str, Any]] = []
    for network in networks:
        weights = decayed(network)
        chosen = {id(weight) for weight in weights}
        others = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
        groups += [{"params": weights, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    rate = optim.learning_rate
    if optim.optimizer == "sgd":
        made = _plain(torch.optim.SGD)(groups, lr=rate, momentum=optim.momentum, nesterov=optim.momentum > 0, fused=True)
    else:
        made = _plain(torch.optim.Adam if optim.optimizer == "adam" else torch.optim.AdamW)(groups, lr=rate, fused=True)
    return cast(torch.optim.Optimizer, made)


class Together:
    """Optimizers of several networks, stepped as one: the same steps, started once. Their state stays theirs."""

    def __init__(self, optimizers: Sequence[tuple[torch.optim.Optimizer, Hashable]]) -> None:
        """``optimizers``: each with what its learning rate follows from, the same for two where they have the same rates all along."""
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._rates: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                settings = tuple(sorted((name, value) for name, value in group.items() if name not in ("params", "lr")))
                joint = groups.get((type(optimizer), rate, settings))
                if joint is None:
                    joint = groups[type(optimizer), rate, settings] = {**group, "params": []}
                    self._rates.append((joint, group))
                joint["params"] += group["params"]
        self._joint = []
        for kind in {type(optimizer) for optimizer, _ in optimizers}:
            members = [optimizer for optimizer, _ in optimizers if type(optimizer) is kind]
            joined = copy.copy(members[0])
            joined.param_groups = [group for (of_kind, *_), group in groups.items() if of_kind is kind]
            joined.state = defaultdict(dict)
            for member in members:
                joined.state |= {tensor: member.state[tensor] for group in member.param_groups for tensor in group["params"]}
            self._joint.append(joined)

    def step(self) -> None:
        """A step of each, with the learning rates that they have now; gradients are let go."""
        for joint, own in self._rates:
            joint["lr"] = own["lr"]
        for optimizer in self._joint:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State as tensors by name ``<parameter's place>.<what>``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, held in state.items() for name, value in held.items() if isinstance(value, Tensor)}


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what :func:`optimizer_state` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, what = name.partition(".")
        state.setdefault(int(index), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
