"""A study scaled down until it ends in seconds: same systems, same search, tiny pictures and networks. For ``kdsearch run --smoke``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kdsearch.spec.check import check_study
from kdsearch.spec.recipe import CIFAR_RESNETS, DATA_SETS, IMAGENET_RESNETS
from kdsearch.spec.space import hole
from kdsearch.spec.study_model import Study
from kdsearch.spec.yaml_reader import Document

SUFFIX = "-smoke"
EPOCHS, BATCH, CONFIGURATIONS, SEARCHED = 2, 64, 4, 2
NARROWER, NARROWEST, WIDEST = 0.25, 0.125, 2.0
"""Every width is a quarter of what it was, so that widths stay apart, but at most 2 and at least an eighth (two channels)."""
Scale = Callable[[Any], Any]


def smoke(study: Study) -> Study:
    """``study`` on digits with narrow ResNet8s, 2 epochs of batches of 64, its first seed, 4 configurations or cells per stratum.

    What makes the study itself stays: strata, labels, quantizers, losses, schedules, number of teachers and chains of assistants.
    Data sets and networks of one's own stay too. The name gets a suffix, so that the run is never mixed with the real one; a
    study that has it already is given back as it is.

    Raises:
        SpecError: the scaled study is not valid.
    """
    if study.name.endswith(SUFFIX):
        return study
    data = study.to_data()
    scaler = _Scaler(data.get("space", {}))
    data["recipe"] = scaler.whole(data["recipe"])
    # The whole of a baseline is scaled, not its overlay alone: what an overlay leaves to the recipe under it is not in sight there.
    data["baselines"] = {name: scaler.whole(study.raw_recipe(name)) | _searched(overlay) for name, overlay in study.overlays.items()}
    paired = study.pruner.name == "wilcoxon"
    data |= {
        "name": study.name[: 100 - len(SUFFIX)] + SUFFIX,
        "title": f"{study.title or study.name} (smoke run: tiny networks on digits)",
        "pruner": {"name": study.pruner.name},
        "budget": {"trials": min(CONFIGURATIONS, study.budget.trials or CONFIGURATIONS)},
        "seeds": list(study.seeds[: 2 if paired else 1]),
        "resources": {"cpu": 1},
    }
    return check_study(Study.model_validate(data), Document(data, f"{study.name} --smoke"), allow_code=True)


def _searched(overlay: dict[str, Any]) -> dict[str, Any]:
    return {"search": min(SEARCHED, overlay["search"])} if "search" in overlay else {}


class _Scaler:
    """Walks a recipe with holes; where it meets a hole, it scales the choices of that parameter instead, once."""

    def __init__(self, space: dict[str, Any]) -> None:
        self.space = space
        self._done: set[str] = set()

    def whole(self, recipe: Any) -> Any:
        """The outermost recipe, which says what its children inherit."""
        return self.recipe({"data": {}, "model": {}, "optim": {}, **recipe})

    def recipe(self, recipe: Any) -> Any:
        def scale(tree: dict[str, Any]) -> dict[str, Any]:
            done = self._parts(tree, data=self.data, model=self.model, optim=self.optim, init=self.child, distill=self.distill)
            return {key: value for key, value in done.items() if key != "pretrained"}

        return self._mapping(recipe, scale)

    def child(self, recipe: Any) -> Any:
        """``init`` or a teacher: a network of its own, though it need not say which."""
        return self._mapping(recipe, lambda tree: self.recipe({"model": {}, **tree}))

    def data(self, data: Any) -> Any:
        def scale(tree: dict[str, Any]) -> dict[str, Any]:
            name = tree.get("name", "digits")
            if isinstance(name, str) and name not in DATA_SETS and hole(name) is None:
                return tree
            kept = {key: value for key, value in tree.items() if key not in ("root", "image_size", "streamed", "workers", "validation")}
            shares = {"validation": 0.2, "train_fraction": 0.5} if "name" in tree or not tree else {}
            shifted = self._words(("crop", "crop_flip"), "shift")  # by 4 is half of a digit
            return {**shares, **self._parts(kept, name=self._words(DATA_SETS, "digits"), augment=shifted)}

        return self._mapping(data, scale)

    def model(self, model: Any) -> Any:
        def scale(tree: dict[str, Any]) -> dict[str, Any]:
            architecture = tree.get("architecture", "resnet20")
            if isinstance(architecture, str) and ":" in architecture:
                return tree
            full = {"architecture": "resnet20", "width": 1.0, **tree}
            words = self._words(CIFAR_RESNETS + IMAGENET_RESNETS, "resnet8")
            return self._parts(full, architecture=words, width=self._numbers(lambda value: min(max(value * NARROWER, NARROWEST), WIDEST)))

        return self._mapping(model, scale)

    def optim(self, optim: Any) -> Any:
        def scale(tree: dict[str, Any]) -> dict[str, Any]:
            epochs, batch = self._numbers(lambda value: min(value, EPOCHS)), self._numbers(lambda value: BATCH)
            scaled = self._parts(tree, epochs=epochs, batch_size=batch, dtype=self._words(("bfloat16",), "float32"))
            return {"epochs": EPOCHS, "batch_size": BATCH, **scaled}

        return self._mapping(optim, scale)

    def distill(self, distill: Any) -> Any:
        def cotrain(tree: dict[str, Any]) -> dict[str, Any]:
            return self._parts({"model": {}, **tree}, model=self.model, init=self.child)

        def joint(tree: Any) -> Any:
            return self._mapping(tree, cotrain)

        def scale(tree: dict[str, Any]) -> dict[str, Any]:
            return self._parts(tree, teachers=self._listed(self.child), cotrain=joint, hints=self._listed(self.hint))

        return self._mapping(distill, scale)

    def hint(self, hint: Any) -> Any:
        return self._mapping(hint, lambda tree: self._parts(tree, student=self._leaf(_layer), teacher=self._leaf(_layer)))

    def _parts(self, tree: dict[str, Any], **scales: Scale) -> dict[str, Any]:
        return {key: scales[key](value) if key in scales else value for key, value in tree.items()}

    def _mapping(self, tree: Any, scale: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        return self._at(tree, lambda value: scale(value) if isinstance(value, dict) else value)

    def _listed(self, scale: Scale) -> Scale:
        return lambda tree: self._at(tree, lambda value: [scale(one) for one in value] if isinstance(value, list | tuple) else value)

    def _leaf(self, scale: Scale) -> Scale:
        return lambda tree: self._at(tree, lambda value: scale(value) if isinstance(value, str) else value)

    def _words(self, known: tuple[str, ...], instead: str) -> Scale:
        return self._leaf(lambda value: instead if value in known else value)

    def _numbers(self, scale: Scale) -> Scale:
        return lambda tree: self._at(tree, lambda value: scale(value) if isinstance(value, int | float) else value)

    def _at(self, tree: Any, scale: Scale) -> Any:
        name = hole(tree)
        if name is None:
            return scale(tree)
        if name not in self._done:
            self._done.add(name)
            self._scale_parameter(self.space[name], scale)
        return tree

    def _scale_parameter(self, spec: dict[str, Any], scale: Scale) -> None:
        choices = spec.get("choices")
        if isinstance(choices, dict):
            spec["choices"] = {label: self._at(fragment, scale) for label, fragment in choices.items()}
        elif choices is not None and any(isinstance(choice, str) for choice in choices):
            spec["choices"] = {choice: scale(choice) for choice in choices}  # labels stay, what they stand for is scaled
        elif choices is not None:
            spec["choices"] = list(dict.fromkeys(scale(choice) for choice in choices))
        else:
            low, high = scale(spec["low"]), scale(spec["high"])
            if low < high:
                spec.update(low=low, high=high, step=None)
            else:
                for key in ("low", "high", "log", "step", "int"):
                    spec.pop(key, None)
                spec["choices"] = [low]


def _layer(name: str) -> str:
    """A layer of torchvision's or of a deeper network, as the ResNet8 calls the one in its place: layer4.1 → stage3.0."""
    place = re.sub(r"^layer(\d)", lambda found: f"stage{min(int(found[1]), 3)}", name)
    return re.sub(r"^(stage\d)\.\d+", r"\1.0", place)
