"""What a result depends on besides its recipe: versions, hardware, threads."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


@lru_cache(maxsize=1)
def processor() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return version("kdsearch")
    except PackageNotFoundError:  # run from its source without being installed
        return "source"


def environment(device: str, threads: int, dtype: str) -> dict[str, str | int]:
    """Recorded with every result: the same recipe gives the same metrics where all of these are the same."""
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor()
    return {
        "kdsearch": _version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.device(device).type,
        "hardware": name,
        "threads": threads,
        "dtype": dtype,
    }
