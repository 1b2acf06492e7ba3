"""Networks with weights: initial ones of a recipe, trained ones out of the store, and ones a person brings along."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdsearch.errors import SpecError, StoreError, TrainingFailed
from kdsearch.record.store import Store
from kdsearch.spec.recipe import Model, Pretrained, Recipe
from kdsearch.training.data import DataSet
from kdsearch.training.models import build, multiply_adds, parameters
from kdsearch.training.quantizers.base import apply_precision, load_canonical_state, quantized_layers


def initial(recipe: Recipe, dataset: DataSet, init: Path | None) -> nn.Module:
    """The network of ``recipe`` before its first step: seeded, or with the weights of the file ``init``; quantizers attached."""
    model = build(recipe.model, in_channels=dataset.shape[0], classes=dataset.classes, seed=recipe.seed)
    if init is not None:
        try:
            load_canonical_state(model, _read(init), quantizers=False)
        except RuntimeError as error:
            raise TrainingFailed(f"init: {error}; give init the same model as the recipe around it") from error
    apply_precision(model, recipe.precision)
    return model


def load_trained(recipe: Recipe, store: Store, *, key: str, dataset: DataSet, device: str = "cpu") -> nn.Module:
    """The trained network of ``recipe``, in eval mode. Raises :class:`StoreError` where the store does not have it."""
    model = build(recipe.model, in_channels=dataset.shape[0], classes=dataset.classes, seed=recipe.seed)
    apply_precision(model, recipe.precision)
    load_canonical_state(model, _read(store.entry(key).weights))
    return model.to(device).eval()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
        return found
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def bring(pretrained: Pretrained, model: nn.Module) -> None:
    """Load a person's own weights into ``model``: safetensors, or a ``state_dict`` of torch, read without running any code.

    A mapping under ``state_dict``, ``model`` or ``model_state_dict`` is taken out of its wrapping; a prefix ``module.`` is
    removed. Raises :class:`SpecError` where the file is missing, is something else, or does not fit; warns that nothing says the
    network has not seen the validation images.
    """
    path = Path(pretrained.file).expanduser()
    try:
        if path.suffix == ".safetensors":
            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist", key="pretrained.file") from None
    except Exception as error:  # torch raises what the pickle reader happens to raise
        hint = "a .safetensors file, or torch.save(model.state_dict(), ...)"
        raise SpecError(f"{path} cannot be read as weights ({type(error).__name__}: {error})", key="pretrained.file", hint=hint) from error
    for wrapping in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapping), Mapping):
            found = found[wrapping]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise SpecError(f"{path} holds a {type(found).__name__}, not a state_dict of tensors", key="pretrained.file")
    state = {str(name).removeprefix("module."): value for name, value in found.items()}
    try:
        load_canonical_state(model, state)
    except RuntimeError as error:
        raise SpecError(f"{path}: {error}", key="pretrained.file", hint="model must say the architecture the file was made with") from error
    warnings.warn(f"{path}: nothing says that this network has not been trained on the validation images", stacklevel=2)


@dataclass(frozen=True)
class Size:
    """How large a network is."""

    parameters: int
    multiply_adds: int


@lru_cache(maxsize=256)
def size(model: Model, shape: tuple[int, int, int], classes: int) -> Size:
    """Parameters, without those of quantizers, and multiply-adds for one image."""
    plain = build(model, in_channels=shape[0], classes=classes, seed=0)
    return Size(parameters(plain), multiply_adds(plain, shape))


def packed_kib(model: nn.Module, plain_parameters: int) -> float:
    """KiB of the weights: quantized ones at their bits, the rest of the parameters at 32 bits."""
    bits, rest = 0, plain_parameters
    for weight, quantizer in quantized_layers(model).values():
        bits += weight.numel() * quantizer.bits
        rest -= weight.numel()
    return (bits + 32 * rest) / 8 / 1024


@contextlib.contextmanager
def autocast(device: str, dtype: str) -> Iterator[None]:
    """Computation in ``dtype`` (``float32`` or ``bfloat16``) where torch's autocast allows."""
    if dtype == "float32":
        yield
    else:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            yield
