"""The trained student as it is handed over: weights already quantized, normalisation inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kdsearch.record.store import Store
from kdsearch.spec.precision import Precision
from kdsearch.spec.recipe import Model, Recipe
from kdsearch.training.data import DataSet, load
from kdsearch.training.keys import key_of
from kdsearch.training.models import build
from kdsearch.training.networks import load_trained
from kdsearch.training.quantizers import Codebook, canonical_state, quantized_layers
from kdsearch.training.quantizers.base import PREFIX, Stages, apply_precision, load_canonical_state


@dataclass(frozen=True)
class Signature:
    """What a network takes and gives: enough, with :class:`Layout`'s model and precision, to build it without its data set."""

    channels: int
    height: int
    width: int
    classes: int
    mean: tuple[float, ...]
    """Per channel, pixels scaled to 0..1."""
    std: tuple[float, ...]


class Deployed(nn.Module):
    """Pictures to logits: ``forward(images)`` takes (B, C, H, W), uint8 or float of 0 to 255, and gives (B, classes) float32.

    ``student`` is the bare network, which takes normalised pictures, as in training.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, student: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.student = student
        self.signature = signature
        shape = (1, signature.channels, 1, 1)
        # The very numbers of DataSet.normalise, so that the logits are those seen in training.
        self.register_buffer("input_scale", torch.tensor([1 / (255 * std) for std in signature.std]).view(shape))
        shift = [-mean / std for mean, std in zip(signature.mean, signature.std, strict=True)]
        self.register_buffer("input_shift", torch.tensor(shift).view(shape))

    def forward(self, images: Tensor) -> Tensor:
        x = torch.addcmul(self.input_shift, images.to(torch.float32), self.input_scale)
        return cast(Tensor, self.student(x))


@dataclass(frozen=True)
class Student:
    """A trained network, taken apart for export."""

    recipe: Recipe
    trained: nn.Module
    """As it was trained, parametrized, in eval mode."""
    deployed: Deployed
    """The same function with the quantized weights as plain ones."""
    codes: dict[str, tuple[Tensor, Codebook]]
    """Name in :func:`state` of each quantized weight → its codes (int16) and codebook."""
    dataset: DataSet

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the bare deployed network under its plain name, quantized weights as float32."""
        return canonical_state(self.deployed.student)


def student_of(recipe: Recipe, store: Store) -> Student:
    """The trained network of ``recipe`` out of the store. Raises StoreError where it is not there."""
    dataset = load(recipe.data)
    trained = load_trained(recipe, store, key=key_of(recipe), dataset=dataset)
    channels, height, width = dataset.shape
    signature = Signature(channels, height, width, dataset.classes, dataset.mean, dataset.std)
    return take_apart(recipe, trained, signature, dataset)


@torch.no_grad()
def take_apart(recipe: Recipe, trained: nn.Module, signature: Signature, dataset: DataSet) -> Student:
    """Codes and plain weights of a network in eval mode."""
    codes = {f"{name}.weight": quantizer.codes(master) for name, (master, quantizer) in quantized_layers(trained).items()}
    bare = bare_network(recipe.model, recipe.precision, signature)
    modules = dict(trained.named_modules())
    state = {}
    for name in canonical_state(bare):
        if not name.startswith(PREFIX):
            layer, _, last = name.rpartition(".")
            state[name] = getattr(modules[layer], last)  # of a parametrized weight its quantized value
    load_canonical_state(bare, state)
    for name, module in bare.named_modules():
        theirs = getattr(modules[name], "quantizer", None)
        if isinstance(module, nn.ReLU) and isinstance(theirs, Stages) and theirs.active is not None:
            own = cast(Stages, module.quantizer)
            assert own.active is not None
            own.active.load_state_dict(theirs.active.state_dict())
            restored = getattr(own.active, "restored", None)
            if restored is not None:
                restored()
    return Student(recipe, trained, Deployed(bare.eval(), signature).eval(), codes, dataset)


def bare_network(model: Model, precision: Precision | None, signature: Signature) -> nn.Module:
    """A network whose weights are plain tensors (to be filled with quantized values), with the final activation quantizers on it."""
    bare = build(model, in_channels=signature.channels, classes=signature.classes, seed=0)
    if precision is not None and precision.activations is not None:
        apply_precision(bare, Precision(activations=precision.activations, keep=precision.keep))
    return bare.eval()
