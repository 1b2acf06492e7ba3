"""What every benchmark does: say on what it ran, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import load
from kdsearch.training.environment import processor
from kdsearch.training.keys import key_of
from kdsearch.training.networks import initial
from kdsearch.training.quantizers import canonical_state

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options that all have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return made


def machine() -> dict[str, Any]:
    """Hardware and versions; the load tells whether anything else ran."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = None
    if torch.cuda.is_available():
        found |= {"accelerator": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, extremes and number."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def show(found: dict[str, float], digits: int = 2) -> str:
    """``median (min to max)``."""
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f} to {found['max']:.{digits}f})"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def finish(document: dict[str, Any], began: dict[str, Any], file: Path | None) -> None:
    """Say on what it ran, and write the figures down."""
    document = {**document, "machine": began, "load_at_the_end": [round(value, 2) for value in os.getloadavg()]}
    print("\n" + ", ".join(f"{name} {value}" for name, value in began.items()))
    if file is not None:
        file.write_text(json.dumps(document, indent=1))


def pretend_trained(recipe: Recipe, store: Store) -> None:
    """File initial weights as the result of every child of ``recipe``: what it costs to ask them does not hang on what they learned."""
    for child in recipe.children().values():
        pretend_trained(child, store)
        weights = {name: value.detach().contiguous() for name, value in canonical_state(initial(child, load(child.data), None)).items()}
        from safetensors.torch import save

        store.write(key_of(child), child.model_dump(mode="json"), {"epochs": [], "final": {}, "environment": {}}, save(weights))


def synthetic_pictures(folder: Path, count: int, classes: int = 10, size: int = 32) -> Path:
    """An image folder of ``count`` random 32×32 PNGs and a tenth for validation: time does not hang on what is on a picture."""
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    for part, number in (("train", count), ("val", max(classes, count // 10))):
        for index in range(number):
            place = folder / part / f"{index % classes:02d}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (size, size, 3), generator=draw, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{index:05d}.png")
    return folder
