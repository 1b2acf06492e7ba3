"""Checkpoints as safetensors bytes: tensors and a JSON header. Nothing is pickled, so nothing read back can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor


def pack(parts: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, Any]) -> bytes:
    """``parts``: groups of named tensors. ``header``: anything JSON can hold; numbers come back exactly."""
    tensors = {f"{part}/{name}": value.detach().cpu().contiguous() for part, group in parts.items() for name, value in group.items()}
    return safetensors.torch.save(tensors, {"kdsearch": json.dumps(header)})


def unpack(blob: bytes) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What :func:`pack` was given."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in safetensors.torch.load(blob).items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = value
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])["__metadata__"]["kdsearch"]
    return parts, json.loads(header)
