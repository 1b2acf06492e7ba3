"""The model card: what the exported network is, how good and how sure that is, how large, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.export.recipe import Best
from kdsearch.export.student import Signature
from kdsearch.spec.words import loss_in_words, precision_in_words

EXAMPLE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.load("images.npy")  # yours: uint8, shape (any number, {channels}, {height}, {width}), values 0 to 255
logits = session.run(["logits"], {{"images": images}})[0]
print(logits.argmax(axis=1))
"""


def example(signature: Signature) -> str:
    """Python that needs numpy and onnxruntime alone."""
    return EXAMPLE.format(channels=signature.channels, height=signature.height, width=signature.width)


def model_card(best: Best, signature: Signature, sizes: Mapping[str, tuple[int, int]], agreements: Mapping[str, Any]) -> str:
    """Markdown. ``sizes``: file → bytes, and bytes of the same with float32 weights; ``agreements``: file → how it compares."""
    recipe, about = best.recipe, best.provenance
    stratum = f", {about['stratum']}" if about["stratum"] else ""
    parts = [
        f"# {recipe.model.architecture} ×{recipe.model.width:g} for {recipe.data.name}\n",
        f"From the study `{about['study']}`{stratum}, trial {about['trial']}, recipe key `{about['key']}`.\n",
        "## Accuracy\n",
        _accuracy(about),
        "## Network\n",
        f"- Precision: {precision_in_words(recipe)}. {_teachers(best)}",
        f"- Loss: {loss_in_words(recipe.distill)}.",
        f"- Training: {recipe.optim.epochs} epochs, {recipe.optim.optimizer}, learning rate {recipe.optim.learning_rate:g} "
        f"({recipe.optim.schedule}), batch size {recipe.optim.batch_size}, seed {recipe.seed}, compute type {recipe.optim.dtype}.",
        f"- Data: {recipe.data.name}, augmentation {recipe.data.augment}; {_training_part(best)}.",
        "- Parameters of the search: " + (", ".join(f"{k}={v}" for k, v in about["params"].items()) or "none") + ".",
        f"- Input: pictures (batch, {signature.channels}, {signature.height}, {signature.width}), values 0 to 255; normalised inside. "
        f"Output: {signature.classes} logits.\n",
        "## Size on disk\n",
        "| file | bytes | with float32 weights | share |\n|---|---:|---:|---:|",
        *(f"| `{name}` | {size:,} | {full:,} | {size / full:.1%} |" for name, (size, full) in sizes.items()),
        "\nSmaller storage; nothing was measured of speed.\n",
        *(_checked(agreements)),
        "## Run it\n",
        *(["With onnxruntime alone:\n", f"```python\n{example(signature)}```\n"] if "model.onnx" in sizes else []),
        *(
            ["In PyTorch, weights at the values they had in training, bit for bit:\n", f"```python\n{_torch_example(best)}```\n"]
            if "model.safetensors" in sizes
            else []
        ),
        "Train it again from nothing, teachers included:\n",
        "```\nkdsearch train best.yaml --store EMPTY_FOLDER\n```\n",
        f"The same metrics on the same machine, versions and {about['threads']} thread(s); elsewhere within noise. Made with "
        + ", ".join(f"{name} {value}" for name, value in about["environment"].items() if name in ("kdsearch", "python", "torch"))
        + f" on {about['environment'].get('hardware', 'unknown hardware')}.\n",
    ]
    if about["warnings"]:
        parts += ["## Warnings\n", *(f"- {text}" for text in about["warnings"]), ""]
    return "\n".join(parts)


def _torch_example(best: Best) -> str:
    allow = ", allow_code=True" if ":" in best.recipe.model.architecture else ""
    return f'import kdsearch\n\nmodel = kdsearch.load_exported("."{allow})\nlogits = model(images)  # uint8 or float of 0 to 255\n'


def _teachers(best: Best) -> str:
    distill = best.recipe.distill
    if distill is None:
        return "No teacher."
    if distill.cotrain is not None:
        return f"Teacher trained jointly: {distill.cotrain.model.architecture} ×{distill.cotrain.model.width:g}."
    names = ", ".join(f"{teacher.model.architecture} ×{teacher.model.width:g}" for teacher in distill.teachers)
    return f"Teachers: {names}."


def _training_part(best: Best) -> str:
    data = best.recipe.data
    if "trained_on" in best.provenance:
        return f"trained on {best.provenance['trained_on']}"
    held = f"{data.validation:.0%} of the training part held out for validation" if data.validation else "nothing held out"
    return held + (f", {data.train_fraction:.0%} of the rest used" if data.train_fraction < 1 else "")


def _accuracy(about: Mapping[str, Any]) -> str:
    value = about.get("value")
    if value is None:
        return "Not measured.\n"
    metric = str(about["metric"])
    text = f"{metric} {value:.2f} ({about['split']}), mean of {about['n']} seed(s)"
    interval = about.get("interval")
    if interval and interval["low"] is not None:
        text += f", 95% interval {interval['low']:.2f} to {interval['high']:.2f} ({interval['method']})"
    lines = [text + "."]
    for name, difference in about.get("differences", {}).items():
        if difference is not None and difference["low"] is not None:
            span = f"{difference['low']:+.2f} to {difference['high']:+.2f}"
            lines.append(f"Against the baseline {name} on the same seeds: {difference['mean']:+.2f} ({span}).")
    if about.get("shrinkage") is not None:
        lines.append(f"On validation data the search saw {about['search_value']:.2f}, fresh seeds {about['confirmed_validation']:.2f}.")
    own = about.get("own_metrics", {})
    mine = [f"{name} {own[name]:.2f}" for name in ("val_accuracy", "test_accuracy") if name in own]
    if mine:
        lines.append(f"This very network (seed {about['seed']}): {', '.join(mine)}.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _checked(agreements: Mapping[str, Any]) -> list[str]:
    return [f"- `{name}` was run against the PyTorch network: {found}." for name, found in agreements.items()] + (
        [""] if agreements else []
    )
