"""Weight and activation quantizers, one family a module; :mod:`.base` puts them on a network."""

from kdsearch.training.quantizers.base import (
    ActivationQuantizer,
    WeightQuantizer,
    after_step,
    apply_precision,
    cached,
    canonical_name,
    canonical_state,
    load_canonical_state,
    quantize,
    quantized_layers,
    refresh,
    set_progress,
)
from kdsearch.training.quantizers.functions import Codebook, dequantize

__all__ = [
    "ActivationQuantizer",
    "Codebook",
    "WeightQuantizer",
    "after_step",
    "apply_precision",
    "cached",
    "canonical_name",
    "canonical_state",
    "dequantize",
    "load_canonical_state",
    "quantize",
    "quantized_layers",
    "refresh",
    "set_progress",
]
