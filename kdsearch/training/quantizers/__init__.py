"""Weight and activation quantizers, one family a module; :mod:`.base` puts them on a network."""

from kdsearch.training.quantizers.base import (
    ActivationQuantizer,
    Quantizers,
    WeightQuantizer,
    apply_precision,
    cached,
    canonical_name,
    canonical_state,
    load_canonical_state,
    quantized_layers,
)
from kdsearch.training.quantizers.functions import Codebook, dequantize

__all__ = [
    "ActivationQuantizer",
    "Codebook",
    "Quantizers",
    "WeightQuantizer",
    "apply_precision",
    "cached",
    "canonical_name",
    "canonical_state",
    "dequantize",
    "load_canonical_state",
    "quantized_layers",
]
