"""What every quantizer is, and how quantizers are put on a network and kept in step with its training.

In a training loop::

    apply_precision(model, precision)          # after the weights are initialised; then load_canonical_state, if any
    quantizers = Quantizers([model])           # of one network, or of several that train at once
    for done in range(steps):
        quantizers.set_progress([done / steps])  # progressive precision: the stage in force
        quantizers.quantize()                  # all weights in one pass, where their quantizer can
        loss(model(x)).backward(); optimizer.step()
        quantizers.after_step([done + 1])      # clipping, positive learned steps, Shin's step size as its policy says

so that weights and step sizes agree whenever the network is evaluated or saved. Under ``with cached():`` weights are quantized
once for a whole evaluation.

Weights: ``torch.nn.utils.parametrize`` on the ``weight`` of every ``nn.Conv2d`` and ``nn.Linear``. The master weight stays at
full precision. Activations: each ``nn.ReLU`` module gets a quantizer of its own as submodule ``quantizer``, applied to its output.
A ReLU module that a network calls several times (torchvision's blocks) therefore shares one quantizer, PACT's α with it, between its calls.

``keep``: ``first`` is the first ``nn.Conv2d`` and ``last`` the last ``nn.Linear`` in module order; ``shortcuts`` are convolutions under a
module named ``shortcut`` or ``downsample``. An activation belongs to the layer that reads it, so with ``last`` the last ReLU of the
network stays full precision too (Apprentice); what the first layer reads is the image, which is never quantized.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import cached as cached

from kdsearch.spec.precision import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, Activations, Precision, Weights
from kdsearch.training.quantizers.functions import Codebook, dequantize, straight_through

PREFIX = "quantizer."
_MASTER = ".parametrizations.weight.original"
_WEIGHT_STATE = ".parametrizations.weight.0."
_ACTIVATION_STATE = ".quantizer."
_SHORTCUTS = {"shortcut", "downsample"}


class Quantizer(nn.Module):
    """What weight and activation quantizers share: moments in training at which their state changes."""

    def start(self, x: Tensor) -> None:
        """Set learned parameters and buffers from the weights; called when the quantizer comes into force."""

    def restored(self) -> None:
        """Buffers were loaded from a checkpoint."""

    def after_step(self, x: Tensor) -> None:
        """After an optimizer step: put master weights and learned parameters back where they are allowed."""


class Batch(ABC):
    """Weight quantizers of one class, with as many bits each, and their master weights, which may change in place."""

    @abstractmethod
    def forward(self) -> Sequence[Tensor]:
        """forward(w) of each."""

    @abstractmethod
    def refresh(self, steps: Sequence[int]) -> None:
        """After optimizer steps, so many of each: compute again what is a function of the weights."""


class WeightQuantizer(Quantizer, ABC):
    """forward(w) → quantized weight, same shape and type, with the quantizer's own gradient.

    A quantizer without learned parameters gives :meth:`levels` and, where its gradient is not the identity, :meth:`surrogate`.
    """

    def __init__(self, weight: Tensor, options: Weights) -> None:
        super().__init__()
        self.bits = options.bits
        self.options = options

    @classmethod
    def batch(cls, members: Sequence[tuple[Self, Tensor]]) -> Batch | None:
        """(quantizer, contiguous master weight) of one type and device, to be computed in one pass; None: each by itself, when needed.

        On a small network starting an operation takes longer than the operation.
        """
        return None

    @abstractmethod
    def levels(self, w: Tensor) -> tuple[Tensor, Codebook]:
        """Codes, as a float tensor of the shape of ``w`` that holds integers, and how they become values."""

    def surrogate(self, w: Tensor) -> Tensor:
        """Function, of the shape and type of ``w``, whose gradient stands for the quantizer's. Default w: straight through."""
        return w

    def forward(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            values = dequantize(*self.levels(w))
        return straight_through(self.surrogate(w), values)

    @torch.no_grad()
    def codes(self, w: Tensor) -> tuple[Tensor, Codebook]:
        """Integer codes (int16, shape of ``w``) and codebook with ``dequantize(codes, codebook)`` equal to forward(w) bit for bit."""
        codes, book = self.levels(w)
        return codes.to(torch.int16), book


class ActivationQuantizer(Quantizer, ABC):
    """forward(x) → quantized activation, same shape and type; ``x`` is the output of a ReLU."""

    def __init__(self, options: Activations) -> None:
        super().__init__()
        self.bits = options.bits
        self.top = 2**options.bits - 1
        """Largest code; codes are 0 to ``top``."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Stages(nn.Module):
    """The quantizers of one weight or ReLU, one for each stage of progressive precision; None is full precision."""

    def __init__(self, quantizers: list[WeightQuantizer] | list[ActivationQuantizer] | list[Quantizer | None], ends: list[float]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Identity() if quantizer is None else quantizer for quantizer in quantizers)
        self.ends = ends
        self.register_buffer("index", torch.zeros((), dtype=torch.int64))
        self._current = 0
        self._quantizers = tuple(quantizers)  # again, since every step asks for one and a ModuleList is slow
        self.ready: Tensor | None = None
        """This step's quantized weight, where :class:`Quantizers` has computed it."""

    @property
    def active(self) -> Quantizer | None:
        """The quantizer in force."""
        return self._quantizers[self._current]

    def forward(self, x: Tensor) -> Tensor:
        if self.ready is not None:
            return self.ready
        active = self._quantizers[self._current]
        return x if active is None else cast(Tensor, active(x))

    def keep(self, value: Tensor | None) -> None:
        """Set :attr:`ready`; a module's own way of setting attributes takes longer than a small quantizer."""
        self.__dict__["ready"] = value

    def set_progress(self, fraction: float) -> bool:
        """Go to the stage of this fraction of training; whether that is another stage than before."""
        before = self._current
        self._go_to(sum(fraction >= end for end in self.ends))
        return self._current != before

    def _go_to(self, stage: int) -> None:
        self._current = stage
        cast(Tensor, self.index).fill_(stage)

    def restored(self) -> None:
        """Buffers were loaded from a checkpoint."""
        self._current = int(cast(Tensor, self.index))
        for stage in self.stages:
            if isinstance(stage, Quantizer):
                stage.restored()


def _load(implementation: str) -> type[Quantizer]:
    module, name = implementation.split(":")
    return cast("type[Quantizer]", getattr(import_module(module), name))


def make_weight_quantizer(weight: Tensor, options: Weights) -> WeightQuantizer:
    """The quantizer of ``options``, started on ``weight``."""
    quantizer = cast(WeightQuantizer, _load(WEIGHT_QUANTIZERS[options.quantizer].implementation)(weight, options))
    quantizer.start(weight)
    return quantizer


def make_activation_quantizer(options: Activations) -> ActivationQuantizer:
    """The quantizer of ``options``."""
    return cast(ActivationQuantizer, _load(ACTIVATION_QUANTIZERS[options.quantizer].implementation)(options))


def apply_precision(model: nn.Module, precision: Precision | None) -> None:
    """Put the quantizers of ``precision`` on ``model``, in place, and start them on its weights. None changes nothing.

    A network is quantized once: raises ValueError where it is already.
    """
    if precision is None:
        return
    if _containers(model):
        raise ValueError("the network has quantizers already; build it anew")
    ends = [stage.until for stage in precision.stages]
    weights = [*(stage.weights for stage in precision.stages), precision.weights]
    activations = [*(stage.activations for stage in precision.stages), precision.activations]
    device = next((p.device for p in model.parameters()), None)
    if any(weights):
        for _, layer in _layers(model, precision.keep):
            weight = cast(nn.Parameter, layer.weight)
            weight.data = weight.data.contiguous()
            master = weight.detach()
            quantizers = [make_weight_quantizer(master, options) if options else None for options in weights]
            parametrize.register_parametrization(layer, "weight", Stages(cast(list[Quantizer | None], quantizers), ends).to(device))
    if any(activations):
        for relu in _relus(model, precision.keep):
            made = [make_activation_quantizer(options) if options else None for options in activations]
            relu.add_module("quantizer", Stages(cast(list[Quantizer | None], made), ends).to(device))
            relu.register_forward_hook(_quantize_output)
    model.__dict__["_quantized"] = _find_containers(model)


def _quantize_output(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return cast(Tensor, cast(nn.Module, module.quantizer)(output))


def _layers(model: nn.Module, keep: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """Convolutions and linear layers that are quantized."""
    convolutions: list[tuple[str, nn.Module]] = [(n, module) for n, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    linears: list[tuple[str, nn.Module]] = [(n, module) for n, module in model.named_modules() if isinstance(module, nn.Linear)]
    if "first" in keep:
        convolutions = convolutions[1:]
    if "last" in keep:
        linears = linears[:-1]
    if "shortcuts" in keep:
        convolutions = [(name, module) for name, module in convolutions if not _SHORTCUTS & set(name.split("."))]
    return convolutions + linears


def _relus(model: nn.Module, keep: tuple[str, ...]) -> list[nn.ReLU]:
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    return relus[:-1] if "last" in keep else relus


def _containers(model: nn.Module) -> list[tuple[str, Tensor, Stages]]:
    """Of each quantized weight or ReLU: the layer's name, its master weight (an empty tensor for a ReLU), its stages. Found once, as
    every training step asks for them."""
    known = model.__dict__.get("_quantized")
    if known is None:
        known = _find_containers(model)
    return cast(list[tuple[str, Tensor, Stages]], known)


def _find_containers(model: nn.Module) -> list[tuple[str, Tensor, Stages]]:
    found = []
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            held = cast(nn.ModuleDict, module.parametrizations)["weight"]
            found.append((name, cast(Tensor, held.original), cast(Stages, held.get_submodule("0"))))
        elif isinstance(module, nn.ReLU) and isinstance(getattr(module, "quantizer", None), Stages):
            found.append((name, torch.empty(0), cast(Stages, module.quantizer)))
    return found


def weight_of(layer: nn.Module) -> Callable[[], Tensor]:
    """What ``layer.weight`` gives, quantized where the layer is, in a tenth of the time."""
    if not parametrize.is_parametrized(layer, "weight"):
        weight = cast(Tensor, layer.weight)
        return lambda: weight
    held = cast(nn.ModuleDict, layer.parametrizations)["weight"]
    master, stages = cast(Tensor, held.original), cast(Stages, held.get_submodule("0"))
    return lambda: stages.forward(master)


def quantized_layers(model: nn.Module) -> dict[str, tuple[Tensor, WeightQuantizer]]:
    """Of each layer whose weight is quantized now: name → (master weight, quantizer). Full-precision stages are left out."""
    found = {}
    for name, master, stages in _containers(model):
        if isinstance(stages.active, WeightQuantizer):
            found[name] = (master, stages.active)
    return found


class Quantizers:
    """The quantizers of networks in training; what can be computed in one pass over all of the networks, is."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._of_models = [_containers(model) for model in models]
        self._gather()

    def _gather(self) -> None:
        """Sort what is in force now."""
        alike: dict[tuple[object, ...], list[tuple[int, Stages, WeightQuantizer, Tensor]]] = {}
        self._bounded: list[tuple[Quantizer, Tensor]] = []
        for index, containers in enumerate(self._of_models):
            for _, master, stages in containers:
                active = stages.active
                if active is not None and type(active).after_step is not Quantizer.after_step:
                    self._bounded.append((active, master))
                if isinstance(active, WeightQuantizer):
                    kind = (type(active), active.bits, master.dtype, master.device)
                    alike.setdefault(kind, []).append((index, stages, active, master))
        self._batches: list[tuple[Batch, list[Stages], list[int]]] = []
        for members in alike.values():
            batch = type(members[0][2]).batch([(quantizer, master) for _, _, quantizer, master in members])
            if batch is not None:
                self._batches.append((batch, [stages for _, stages, _, _ in members], [index for index, *_ in members]))

    def set_progress(self, fractions: Sequence[float]) -> None:
        """Put the stage of each network's fraction (0 to 1) of training in force; quantizers that come into force start from the
        weights."""
        changed = False
        for containers, fraction in zip(self._of_models, fractions, strict=True):
            for _, master, stages in containers:
                if stages.set_progress(fraction):
                    changed = True
                    if stages.active is not None:
                        stages.active.start(master.detach())
        if changed:
            self._gather()

    def quantize(self) -> None:
        """Before a training step: compute the quantized weights that can be computed together. :meth:`after_step` lets them go."""
        for batch, of_batch, _ in self._batches:
            for stages, value in zip(of_batch, batch.forward(), strict=True):
                stages.keep(value)

    @torch.no_grad()
    def after_step(self, steps: Sequence[int]) -> None:
        """After each optimizer step, so many of each network: master weights and learned parameters go back to where they are allowed,
        and step sizes that are a function of the weights are computed as their policy says."""
        for quantizer, master in self._bounded:
            quantizer.after_step(master)
        for batch, of_batch, networks in self._batches:
            for stages in of_batch:
                stages.keep(None)
            batch.refresh([steps[index] for index in networks])


def canonical_name(name: str) -> str:
    """Name in :func:`canonical_state` of a parameter or buffer of a model: ``conv1.parametrizations.weight.original`` → ``conv1.weight``.

    Names of quantizers' own state begin with ``quantizer.``; such parameters are trained without weight decay.
    """
    name = f".{name}"
    if name.endswith(_MASTER):
        return name.removesuffix(_MASTER)[1:] + ".weight"
    for inner, outer in ((_WEIGHT_STATE, ".weight."), (_ACTIVATION_STATE, ".")):
        if inner in name:
            layer, own = name.split(inner, 1)
            return PREFIX + layer[1:] + outer + own
    return name[1:]


def canonical_state(model: nn.Module) -> dict[str, Tensor]:
    """State of ``model``: full-precision master weights under the plain names of a network without quantizers, the quantizers' own
    parameters and buffers under names that begin with ``quantizer.``. Tensors are shared with the model, not copied."""
    return {canonical_name(name): tensor for name, tensor in model.state_dict().items()}


def load_canonical_state(model: nn.Module, state: Mapping[str, Tensor], *, quantizers: bool = True) -> None:
    """Load :func:`canonical_state` of this or of a network of another precision into ``model``.

    With ``quantizers``, what the quantizers had is restored where ``state`` has it (a checkpoint of the same network); a state
    without it, or ``quantizers=False`` (``init`` from another recipe), gives the weights, and the quantizers start from them.
    A model without quantizers takes the weights alone. Raises RuntimeError, naming them, where tensors are missing, too many or
    of other shapes.
    """
    names = {canonical_name(name): name for name in model.state_dict()}
    restore = quantizers and any(name.startswith(PREFIX) for name in state) and any(name.startswith(PREFIX) for name in names)
    wanted = {name: own for name, own in names.items() if restore or not name.startswith(PREFIX)}
    given = {name: tensor for name, tensor in state.items() if restore or not name.startswith(PREFIX)}
    own_state = model.state_dict()
    problems = [f"{name} is missing" for name in wanted.keys() - given.keys()]
    problems += [f"{name} is not in the network" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the network's {tuple(own_state[own].shape)}"
        for name, own in wanted.items()
        if name in given and given[name].shape != own_state[own].shape
    ]
    if problems:
        raise RuntimeError("weights do not fit the network: " + "; ".join(sorted(problems)[:8]))
    model.load_state_dict({own: given[name] for name, own in wanted.items()}, strict=False)
    for _, master, stages in _containers(model):
        if restore:
            stages.restored()
        elif stages.active is not None:
            stages.active.start(master.detach())
