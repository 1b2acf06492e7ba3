"""An exported folder back to a network: ``kdsearch.load_exported("out")``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdsearch.errors import ExportError, UsageError
from kdsearch.export.packing import read_packed, write_packed
from kdsearch.export.student import Deployed, Signature, Student, bare_network
from kdsearch.spec.precision import Precision
from kdsearch.spec.recipe import USER_CODE, Model
from kdsearch.training.quantizers.base import load_canonical_state

WEIGHTS = "model.safetensors"


def save_student(student: Student, path: Path) -> None:
    """Write the packed file of ``student``; it says all that :func:`load_exported` needs."""
    precision = student.recipe.precision
    header: dict[str, Any] = {
        "model": student.recipe.model.model_dump(mode="json"),
        "precision": precision.model_dump(mode="json") if precision is not None else None,
        "signature": asdict(student.deployed.signature),
    }
    write_packed(path, student.state(), student.codes, header)


def load_exported(source: str | Path, *, allow_code: bool = False) -> Deployed:
    """The exported student, in eval mode, on the CPU.

    ``load_exported("out")(images)`` takes (B, C, H, W) pictures, uint8 or float of 0 to 255, and gives logits (B, classes);
    ``.student`` is the bare network, which takes normalised pictures.

    Args:
        source: the exported folder, or its ``model.safetensors``.
        allow_code: whether a network of yours (``package.module:function``) may be imported and called.

    Raises:
        ExportError: the file is missing, cut short, altered, from a newer version, or does not fit its network.
        UsageError: the network is your own code and ``allow_code`` is not given.
    """
    path = Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    state, header = read_packed(path)
    try:
        model = Model.model_validate(header["model"])
        precision = None if header["precision"] is None else Precision.model_validate(header["precision"])
        said = header["signature"]
        signature = Signature(**{**said, "mean": tuple(said["mean"]), "std": tuple(said["std"])})
    except (ValidationError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: its header is not understood ({error})") from error
    if USER_CODE.fullmatch(model.architecture) and not allow_code:
        raise UsageError(f"{path}: its network is code of yours, {model.architecture}; load it with allow_code=True if you trust it")
    bare = bare_network(model, precision, signature)
    try:
        load_canonical_state(bare, state)
    except RuntimeError as error:
        raise ExportError(f"{path}: {error}; the network it was made with is another than this kdsearch builds") from error
    return Deployed(bare.eval(), signature).eval()
