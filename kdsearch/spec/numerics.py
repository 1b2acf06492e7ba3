"""Versions of what the components compute. The one place to raise a number when a component's results change.

A recipe's key holds the version of each component the recipe uses, and of no other: raising one makes the store train again
exactly what is affected. A quantizer's version stands in its row of :mod:`kdsearch.spec.precision`. A component that is not
listed here is at version 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdsearch.spec.precision import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, Precision
from kdsearch.spec.recipe import CIFAR_RESNETS, IMAGENET_RESNETS, USER_CODE, Recipe

NUMERICS: dict[str, int] = {
    "trainer": 2,
    "split": 1,
    "data.digits": 1,
    "data.cifar10": 1,
    "data.cifar100": 1,
    "data.imagefolder": 1,
    "data.val_joined": 1,
    "augment.crop_flip": 1,
    "augment.crop": 1,
    "augment.shift": 1,
    "architecture.cifar_resnet": 1,
    "architecture.imagenet_resnet": 1,
    "optimizer.sgd": 1,
    "optimizer.adam": 1,
    "optimizer.adamw": 1,
    "rate.cosine": 1,
    "rate.step": 1,
    "rate.linear": 1,
    "rate.constant": 1,
    "coefficient.constant": 1,
    "coefficient.cr_linear": 1,
    "coefficient.cr_cosine": 1,
    "coefficient.cr_step": 1,
    "loss.cross_entropy": 1,
    "loss.kl": 1,
    "loss.mse_logits": 1,
    "hints": 1,
    "cotrain": 1,
    "stages": 1,
    "pretrained": 1,
}


def numerics_of(recipe: Recipe) -> dict[str, int]:
    """Component → version, for the components this recipe itself uses (its children have keys of their own)."""
    found = {name: NUMERICS.get(name, 1) for name in _components(recipe)}
    for precision in _precisions(recipe.precision):
        if precision.weights is not None:
            found[f"weights.{precision.weights.quantizer}"] = WEIGHT_QUANTIZERS[precision.weights.quantizer].numerics
        if precision.activations is not None:
            found[f"activations.{precision.activations.quantizer}"] = ACTIVATION_QUANTIZERS[precision.activations.quantizer].numerics
    return found


def _precisions(precision: Precision | None) -> list[Precision]:
    if precision is None:
        return []
    return [precision, *(Precision(weights=stage.weights, activations=stage.activations) for stage in precision.stages)]


def _components(recipe: Recipe) -> Iterator[str]:
    yield "split"
    if not USER_CODE.fullmatch(recipe.data.name):
        yield f"data.{recipe.data.name}"
    if recipe.data.name == "imagefolder" and recipe.data.on_everything:
        yield "data.val_joined"
    yield from _architecture(recipe.model.architecture)
    if recipe.pretrained is not None:
        yield "pretrained"
        return
    yield from ("trainer", f"optimizer.{recipe.optim.optimizer}", f"rate.{recipe.optim.schedule}")
    if recipe.data.augment != "none":
        yield f"augment.{recipe.data.augment}"
    if recipe.precision is not None and recipe.precision.stages:
        yield "stages"
    if recipe.distill is None:
        return
    yield from (f"loss.{recipe.distill.loss.soft}", f"coefficient.{recipe.distill.schedule.name}")
    if recipe.distill.hints:
        yield "hints"
    if recipe.distill.cotrain is not None:
        yield "cotrain"
        yield from _architecture(recipe.distill.cotrain.model.architecture)


def _architecture(name: str) -> Iterator[str]:
    if name in CIFAR_RESNETS:
        yield "architecture.cifar_resnet"
    elif name in IMAGENET_RESNETS:
        yield "architecture.imagenet_resnet"
