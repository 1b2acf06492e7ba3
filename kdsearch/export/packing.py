"""Weights packed at their bits, in a safetensors file.

Of each quantized weight the file holds its codes, packed into bytes at 1, 2, 4 or 8 bits each (the smallest that holds them: ternary
takes 2, three bits take 4), and what makes values of codes: a scale (per tensor, filter or bucket), an offset where there is one,
or a table. Everything else (batch norm, biases, layers kept at full precision, activation quantizers) is float32 as it is.

Tensors of a quantized weight ``conv1.weight``: ``conv1.weight#codes`` (uint8, the first code in the lowest bits), and of
``#scale``, ``#offset``, ``#table`` those that it has. The metadata says the rest: ``format``, ``version``, ``header`` (JSON: the model,
its signature, shape and packing of each weight) and ``sha256`` over the header and every tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdsearch.errors import ExportError
from kdsearch.training.quantizers import Codebook, dequantize

FORMAT = "kdsearch-packed"
VERSION = 1
"""Raised when a file of the format before can no longer say what is needed; older versions stay readable."""
WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Packing:
    """How the codes of one weight became bytes: code = base + stride · stored, ``stored`` unsigned in ``bits`` bits."""

    shape: tuple[int, ...]
    bits: int
    base: int
    stride: int
    bucket: int | None = None


def packing_of(codes: Tensor, bucket: int | None = None) -> Packing:
    """The tightest packing of integer ``codes``. A stride of 2 holds codes that are all odd (1 bit, DoReFa). At most 256 levels."""
    low, high = int(codes.min()), int(codes.max())
    stride = 2 if high > low and not bool(((codes - low) % 2).any()) else 1
    levels = (high - low) // stride + 1
    if levels > 256:
        raise ExportError(f"{levels} levels do not fit 8 bits")
    bits = next(width for width in WIDTHS if 2**width >= levels)
    return Packing(tuple(codes.shape), bits, low, stride, bucket)


def stored(codes: Tensor, packing: Packing) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Unsigned codes, one a byte, flat in row-major order."""
    flat: np.ndarray[Any, np.dtype[np.uint8]] = ((codes.flatten().to(torch.int32) - packing.base) // packing.stride).to(torch.uint8).numpy()
    return flat


def pack(values: np.ndarray[Any, np.dtype[np.uint8]], bits: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(n,) values below 2^bits → ⌈n·bits/8⌉ bytes, the first value in the lowest bits; the rest of the last byte is 0."""
    per_byte = 8 // bits
    padded = np.pad(values, (0, -len(values) % per_byte)).reshape(-1, per_byte)
    shifted = padded << (np.arange(per_byte, dtype=np.uint8) * np.uint8(bits))
    packed: np.ndarray[Any, np.dtype[np.uint8]] = np.bitwise_or.reduce(shifted.astype(np.uint8), axis=1)
    return packed


def unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], bits: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Inverse of :func:`pack`: the first ``count`` values."""
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    return ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count].astype(np.uint8)


def unpacked(packed: Tensor, packing: Packing) -> Tensor:
    """Codes (int16) of the original shape."""
    flat = unpack(packed.numpy(), packing.bits, math.prod(packing.shape)).astype(np.int16)
    return torch.from_numpy(flat * np.int16(packing.stride) + np.int16(packing.base)).view(packing.shape)


def _parts(name: str, book: Codebook) -> dict[str, Tensor]:
    parts = {"scale": book.scale, "offset": book.offset, "table": book.table}
    return {f"{name}#{part}": tensor.detach().clone() for part, tensor in parts.items() if tensor is not None}


def write_packed(path: Path, state: Mapping[str, Tensor], codes: Mapping[str, tuple[Tensor, Codebook]], header: Mapping[str, Any]) -> None:
    """Write the file: ``state`` (name → tensor), those of ``codes`` in its packed form, and ``header`` (plain JSON data) beside them."""
    tensors: dict[str, Tensor] = {}
    packings: dict[str, Any] = {}
    for name, tensor in state.items():
        if name not in codes:
            tensors[name] = tensor.detach().cpu().contiguous().clone()
            continue
        integers, book = codes[name]
        packing = packing_of(integers, book.bucket)
        tensors[f"{name}#codes"] = torch.from_numpy(pack(stored(integers, packing), packing.bits))
        tensors |= _parts(name, book)
        packings[name] = {key: value for key, value in vars(packing).items() if value is not None}
    text = json.dumps({**header, "packed": packings}, sort_keys=True, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": str(VERSION), "header": text, "sha256": _digest(text, tensors)}
    path.write_bytes(save(tensors, metadata=metadata))


def read_packed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by plain name, quantized ones as the float values they had in training, bit for bit; and the header.

    Raises:
        ExportError: the file is missing, cut short, altered, of a newer version, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file; kdsearch export writes it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            _check_format(path, metadata)
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ExportError(f"{path}: not a whole safetensors file, perhaps cut short ({error}); copy or export it again") from error
    text = metadata.get("header", "")
    if metadata.get("sha256") != _digest(text, tensors):
        raise ExportError(f"{path}: its content does not match its checksum, so it was altered or damaged; copy or export it again")
    header: dict[str, Any] = json.loads(text)
    state = {name: tensor for name, tensor in tensors.items() if "#" not in name}
    for name, said in header["packed"].items():
        packing = Packing(**{**said, "shape": tuple(said["shape"])})
        book = Codebook(
            torch.float32,
            scale=tensors.get(f"{name}#scale"),
            offset=tensors.get(f"{name}#offset"),
            bucket=packing.bucket,
            table=tensors.get(f"{name}#table"),
        )
        state[name] = dequantize(unpacked(tensors[f"{name}#codes"], packing), book)
    return state, header


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ExportError(f"{path}: a safetensors file, but not one that kdsearch export wrote")
    version = metadata.get("version", "")
    if not version.isdigit() or int(version) > VERSION:
        raise ExportError(f"{path}: of format version {version}, this kdsearch reads up to {VERSION}; install a newer kdsearch")


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and the tensors' names, types, shapes and bytes in order of name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
