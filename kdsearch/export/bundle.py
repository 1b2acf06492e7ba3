"""Everything of the best configurations in one folder: recipe, packed weights, ONNX, torch program, model card.

::

    OUT/                    one stratum and one configuration: the files lie here, else each in a folder of its own
      best.yaml             the recipe with its provenance
      model.safetensors     weights at their bits; kdsearch.load_exported
      model.onnx            weights at their bits; ONNX Runtime
      model.pt2             torch.export program, float32
      README.md             model card

Each model is run against the trained network on real pictures before it is kept.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from kdsearch.analysis.eligible import nothing_eligible
from kdsearch.errors import DataError, ExportError, StoreError, UsageError
from kdsearch.export.agreement import Agreement, check
from kdsearch.export.card import model_card
from kdsearch.export.loader import WEIGHTS, load_exported, save_student
from kdsearch.export.onnx_model import import_onnx, onnx_models, onnx_runner, quiet
from kdsearch.export.recipe import Best, best_of, best_yaml
from kdsearch.export.student import Student, student_of
from kdsearch.record.files import storage_errors
from kdsearch.record.store import Store
from kdsearch.training.streamed import Files

if TYPE_CHECKING:
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Study

FORMATS = ("safetensors", "onnx", "program")
RECIPE, ONNX, PROGRAM, CARD = "best.yaml", "model.onnx", "model.pt2", "README.md"
FILES = (RECIPE, WEIGHTS, ONNX, PROGRAM, CARD)
MOST_IMAGES, MOST_STREAMED = 10_000, 500
"""Test pictures that models are compared on; of a data set that is decoded as it is read."""


@dataclass(frozen=True)
class Exported:
    """One exported configuration."""

    stratum: str
    folder: Path
    key: str
    value: float | None
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """File → bytes, and bytes of the same with float32 weights."""
    agreements: dict[str, Agreement] = field(default_factory=dict)

    def text(self) -> str:
        """Lines for people: each file's size next to float32's, and how it agrees."""
        lines = [f"{self.folder}{f' [{self.stratum}]' if self.stratum else ''}"]
        for name, (size, full) in self.sizes.items():
            lines.append(f"  {name}: {size:,} bytes; with float32 weights {full:,} ({size / full:.1%}); {self.agreements[name]}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "stratum": self.stratum,
            "folder": str(self.folder),
            "key": self.key,
            "value": self.value,
            "files": {
                name: {
                    "bytes": size,
                    "float32_bytes": full,
                    "images": self.agreements[name].images,
                    "same_top1": self.agreements[name].same,
                    "largest_difference": self.agreements[name].largest,
                }
                for name, (size, full) in self.sizes.items()
            },
        }


def export_study(
    study: Study,
    rows: Sequence[TrialRow],
    store: Store | str | Path,
    out: str | Path,
    *,
    top: int = 1,
    formats: Sequence[str] = FORMATS,
    force: bool = False,
    float_input: bool = False,
) -> list[Exported]:
    """Export the ``top`` best configurations of each stratum into ``out``: confirmed ones where there are any, else the search's.

    ``force`` replaces what an export has left in the folders; other files in them stay. ``float_input`` makes the ONNX model take
    float32 of 0 to 255 in place of uint8.

    Raises:
        NothingEligible: nothing that keeps the study's constraints has finished.
        UsageError: ``out`` holds something and ``force`` is not given; an unknown format; the extra ``export`` is not installed.
        ExportError: a written model does not agree with the trained network.
        StoreError: the store lost a network.
    """
    out, held = Path(out), store if isinstance(store, Store) else Store(store)
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UsageError(f"no format {unknown[0]!r}; allowed: {', '.join(FORMATS)}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out names a folder")
    if out.exists() and any(out.iterdir()) and not force:
        raise UsageError(f"{out}: exists and is not empty; give another --out, or --force to replace what an export wrote there")
    if "onnx" in formats:
        import_onnx()
    found = best_of(study, rows, held, top=top)
    if not found:
        raise nothing_eligible(rows, study, study.name)
    alone = len(found) == 1 and len(study.strata_list()) == 1
    return [export_one(one, held, out if alone else out / one.slug, formats=formats, float_input=float_input) for one in found]


def export_one(best: Best, store: Store, folder: Path, *, formats: Sequence[str] = FORMATS, float_input: bool = False) -> Exported:
    """Export one configuration into ``folder``; the files appear there when all of them are right."""
    try:
        student = student_of(best.recipe, store)
    except StoreError as error:
        raise StoreError(f"{error}; make it again with: kdsearch train best.yaml, then export") from error
    images = check_images(student)
    exported = Exported(best.stratum.name, folder, best.key, best.provenance.get("value"))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            made = Path(temporary)
            (made / RECIPE).write_text(best_yaml(best), encoding="utf-8")
            for kind in dict.fromkeys(formats):
                file, write = _WRITERS[kind]
                full, run = write(student, made / file, float_input)
                exported.sizes[file] = ((made / file).stat().st_size, full)
                exported.agreements[file] = check(file, run, student, images)
            (made / CARD).write_text(model_card(best, student.deployed.signature, exported.sizes, exported.agreements), encoding="utf-8")
            for old in FILES:
                (folder / old).unlink(missing_ok=True)
            for path in made.iterdir():
                shutil.move(path, folder / path.name)
    return exported


def check_images(student: Student) -> Tensor:
    """Test pictures (validation ones where there are none), at most 10,000: (N, C, H, W) uint8."""
    for split in ("test", "validation", "train"):
        try:
            part = student.dataset.split(split)
        except DataError:
            continue
        if isinstance(part.images, Files):
            some = torch.arange(min(len(part), MOST_STREAMED))
            return torch.cat(list(part.images.batches(some, part.numbers, 50, "none", 0, 0)))
        if len(part):
            return part.images[:MOST_IMAGES]
    raise ExportError("the data set has no pictures to compare on")


Written = tuple[int, Callable[[Tensor], Any]]
"""Bytes of the same file with float32 weights; the written model as a function of uint8 pictures."""


def _safetensors(student: Student, path: Path, float_input: bool) -> Written:
    save_student(student, path)
    loaded = load_exported(path, allow_code=True)
    return len(save({name: tensor.detach().contiguous().clone() for name, tensor in student.state().items()})), loaded


def _onnx(student: Student, path: Path, float_input: bool) -> Written:
    model, full = onnx_models(student, float_input=float_input)
    path.write_bytes(model.SerializeToString())
    return full, onnx_runner(path)


def _program(student: Student, path: Path, float_input: bool) -> Written:
    s = student.deployed.signature
    example = torch.zeros(2, s.channels, s.height, s.width, dtype=torch.uint8)
    try:
        with quiet():
            program = torch.export.export(student.deployed, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(program, path)
            module = torch.export.load(path).module()
    except Exception as error:  # whatever torch's tracing of a person's network raises
        raise ExportError(f"torch.export cannot take the network: {type(error).__name__}: {str(error)[:500]}") from error
    return path.stat().st_size, module


_WRITERS: dict[str, tuple[str, Callable[[Student, Path, bool], Written]]] = {
    "safetensors": (WEIGHTS, _safetensors),
    "onnx": (ONNX, _onnx),
    "program": (PROGRAM, _program),
}
