"""Precision of a network: which quantizer, how many bits, and which layers stay full precision.

``WEIGHT_QUANTIZERS`` and ``ACTIVATION_QUANTIZERS`` are the one visible mapping from a quantizer's name to the bits and
options it has and the code that does it. A new quantizer is one file in ``kdsearch/training/quantizers/`` and one row here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from kdsearch.spec.base import FieldProblem, Frozen, Real, Whole


@dataclass(frozen=True)
class QuantizerRow:
    """What the search layer knows of a quantizer without loading torch."""

    implementation: str
    """``module:Class``, loaded by the training room."""
    bits: tuple[int, ...]
    """Bits it has; anything else is refused."""
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    """Option → default. Options that are not listed are refused."""
    numerics: int = 1
    """Raised whenever the quantizer's results change, which changes the keys of recipes that use it."""


_STEP: dict[str, Any] = {"step_policy": "every_step", "every": 1, "granularity": "tensor"}
_HERE = "kdsearch.training.quantizers"

WEIGHT_QUANTIZERS: dict[str, QuantizerRow] = {
    "shin": QuantizerRow(f"{_HERE}.shin:Shin", tuple(range(1, 9)), "Shin, Boo, Sung, Eq. 1 and 2; step by L2 error", _STEP, numerics=2),
    "binaryconnect": QuantizerRow(
        f"{_HERE}.binary:BinaryConnect", (1,), "Courbariaux, Bengio, David 2015: sign(w), master weights clipped to [-1, 1]"
    ),
    "xnor": QuantizerRow(f"{_HERE}.binary:Xnor", (1,), "Rastegari et al. 2016 (BWN): per-filter mean of |w| times sign(w)"),
    "twn": QuantizerRow(f"{_HERE}.ternary:TWN", (2,), "Li, Zhang, Liu 2016", {"threshold": 0.7}),
    "ttq": QuantizerRow(f"{_HERE}.ternary:TTQ", (2,), "Zhu et al. 2016, learned scales", {"threshold": 0.05}),
    "dorefa": QuantizerRow(f"{_HERE}.dorefa:DoReFaWeights", tuple(range(1, 9)), "Zhou et al. 2016"),
    "wrpn": QuantizerRow(f"{_HERE}.wrpn:WRPNWeights", tuple(range(2, 9)), "Mishra et al. 2017"),
    "lsq": QuantizerRow(f"{_HERE}.lsq:LSQWeights", tuple(range(2, 9)), "Esser et al. 2020, learned step"),
    "qdistill": QuantizerRow(
        f"{_HERE}.qdistill:Buckets", tuple(range(1, 9)), "Polino, Pascanu, Alistarh 2018, uniform buckets", {"bucket": 256}
    ),
    "points": QuantizerRow(
        f"{_HERE}.qdistill:Points", tuple(range(1, 9)), "Polino, Pascanu, Alistarh 2018, differentiable quantization points"
    ),
}

ACTIVATION_QUANTIZERS: dict[str, QuantizerRow] = {
    "dorefa": QuantizerRow(f"{_HERE}.dorefa:DoReFaActivations", tuple(range(2, 9)), "Zhou et al. 2016: clip to [0, 1]"),
    "wrpn": QuantizerRow(f"{_HERE}.wrpn:WRPNActivations", tuple(range(2, 9)), "Mishra et al. 2017: clip to [0, 1]"),
    "pact": QuantizerRow(f"{_HERE}.pact:PACT", tuple(range(2, 9)), "Choi et al. 2018, learned clip per layer", {"clip": 6.0}),
    "lsq": QuantizerRow(f"{_HERE}.lsq:LSQActivations", tuple(range(2, 9)), "Esser et al. 2020, learned step"),
}


class _Quantizer(Frozen):
    """Shared rules of weight and activation quantizers: options the quantizer lacks are refused, those it has get their default."""

    @classmethod
    def rows(cls) -> dict[str, QuantizerRow]:
        return WEIGHT_QUANTIZERS

    @model_validator(mode="before")
    @classmethod
    def _fill_and_refuse(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("quantizer"), str) or raw["quantizer"] not in cls.rows():
            return raw  # the field's own type says what is wrong
        name = raw["quantizer"]
        row = cls.rows()[name]
        known = set(cls.model_fields)
        for key, value in raw.items():
            if key in known and key not in {"quantizer", "bits"} and key not in row.options and value is not None:
                options = ", ".join(row.options) or "none"
                raise FieldProblem(f"quantizer {name!r} has no option {key!r}; its options: {options}", key)
        bits = raw.get("bits")
        if bits is None and len(row.bits) == 1:
            raw = {**raw, "bits": row.bits[0]}
        elif isinstance(bits, (int, float)) and not isinstance(bits, bool) and bits not in row.bits:
            allowed = f"{row.bits[0]} to {row.bits[-1]}" if len(row.bits) > 1 else f"only {row.bits[0]}"
            raise FieldProblem(f"quantizer {name!r} has no {bits} bits; allowed: {allowed}", "bits")
        return {**{k: v for k, v in row.options.items() if raw.get(k) is None}, **{k: v for k, v in raw.items() if v is not None}}


class Weights(_Quantizer):
    """Weight quantizer of a network."""

    quantizer: Literal["shin", "binaryconnect", "xnor", "twn", "ttq", "dorefa", "wrpn", "lsq", "qdistill", "points"] = Field(
        description="Name of the weight quantizer."
    )
    bits: Whole = Field(description="Bits per weight. 2 bits of the symmetric quantizers are ternary.", ge=1, le=8)
    step_policy: Literal["once", "every_k", "every_step"] | None = Field(
        None, description="shin: when the step size Δ is computed again from the weights. The paper does not say; default every_step."
    )
    every: Whole | None = Field(None, description="shin with step_policy every_k: training steps between computations of Δ.", ge=1)
    granularity: Literal["tensor", "filter"] | None = Field(
        None, description="shin: one Δ per weight tensor or per output filter. Default tensor."
    )
    threshold: Real | None = Field(
        None, description="twn: fraction of mean |w| (default 0.7); ttq: fraction of max |w| (default 0.05).", gt=0, lt=10
    )
    bucket: Whole | None = Field(None, description="qdistill: consecutive weights that share a scale. Default 256.", ge=2)


class Activations(_Quantizer):
    """Activation quantizer of a network, applied after every ReLU whose layer is quantized."""

    @classmethod
    def rows(cls) -> dict[str, QuantizerRow]:
        return ACTIVATION_QUANTIZERS

    quantizer: Literal["dorefa", "wrpn", "pact", "lsq"] = Field(description="Name of the activation quantizer.")
    bits: Whole = Field(description="Bits per activation, unsigned.", ge=2, le=8)
    clip: Real | None = Field(None, description="pact: starting value of the learned clip α. Default 6.", gt=0)


class Stage(Frozen):
    """One stage of progressive precision: in force from the end of the stage before it until the fraction ``until`` of training."""

    until: Real = Field(description="Fraction of training (0 to 1) at which the next stage begins.", gt=0, lt=1)
    weights: Weights | None = Field(None, description="Weight quantizer of this stage; null is full precision.")
    activations: Activations | None = Field(None, description="Activation quantizer of this stage; null is full precision.")


class Precision(Frozen):
    """Quantization of one network. Batch-norm parameters and biases stay full precision."""

    weights: Weights | None = Field(None, description="Weight quantizer; null keeps weights at full precision.")
    activations: Activations | None = Field(None, description="Activation quantizer; null keeps activations at full precision.")
    keep: tuple[Literal["first", "last", "shortcuts"], ...] = Field(
        (),
        description="Layers that stay full precision: the first convolution, the last linear layer, the shortcut "
        "projections. Shin et al. do not say which; Apprentice keeps first and last. Default: all are quantized.",
    )
    stages: tuple[Stage, ...] = Field(
        (), description="Progressive precision (Zhuang et al. 2018): stages before the final precision, in order of `until`."
    )

    @model_validator(mode="after")
    def _stages_in_order(self) -> Precision:
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            raise FieldProblem(f"stages must have rising values of `until`, not {ends}", "stages")
        return self
