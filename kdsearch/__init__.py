"""Hyperparameter search for knowledge distillation of quantized networks.

``Study`` is the door to everything the command line does; ``load_exported`` brings an exported student back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdsearch.api import Study
    from kdsearch.export.loader import load_exported

__all__ = ["Study", "load_exported"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that ``import kdsearch`` is light."""
    if name == "Study":
        from kdsearch.api import Study

        return Study
    if name == "load_exported":
        from kdsearch.export.loader import load_exported

        return load_exported
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
