"""Checkpoints in the safetensors format: tensors and a JSON header. Nothing is pickled, so nothing read back can run code.

Written here by hand (the format is 8 bytes of length, a JSON header, the data): the library's ``save`` looks for shared memory first,
which for the many small tensors of a small network takes longer than a training step, and a checkpoint is written every epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pack(parts: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, Any]) -> bytes:
    """``parts``: groups of named tensors. ``header``: anything JSON can hold; its numbers come back exactly."""
    named = [(f"{part}/{name}", value.detach()) for part, group in parts.items() for name, value in group.items()]
    named.sort(key=lambda item: -item[1].element_size())  # keeps every tensor aligned
    described: dict[str, Any] = {"__metadata__": {"kdsearch": json.dumps(header)}}
    pieces, at = [], 0
    for name, tensor in named:
        pieces.append(tensor.cpu().contiguous().numpy().tobytes())
        described[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(pieces[-1])]}
        at += len(pieces[-1])
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *pieces))


def unpack(blob: bytes) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What :func:`pack` was given."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in safetensors.torch.load(blob).items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = value
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])["__metadata__"]["kdsearch"]
    return parts, json.loads(header)
