"""The student as ONNX whose weights are stored at their bits.

``torch.onnx`` draws the graph, so any network that it can trace is supported; then each quantized weight's float initializer is
replaced by integer codes and the nodes that make values of them when the model is loaded:

==============================  =====================================================================================
codes times a scale             ``DequantizeLinear`` on INT2, INT4 or INT8, per tensor or per filter
1 bit                           bits packed into bytes, a table of the 256 bytes' eight values, times the scale (half of INT2's size);
                                INT2 where the layer is so small that the packed form would be larger
codes with an offset, buckets   ``DequantizeLinear`` on UINT2, UINT4 or UINT8, one scale per bucket, plus the offset
a table (TTQ, points)           ``Gather`` from the table at the codes
==============================  =====================================================================================

The network's parameters that are not quantized stay float32. Activation quantizers are ordinary nodes.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import ExportError, UsageError
from kdsearch.export.packing import Packing, pack, packing_of, stored
from kdsearch.export.student import Deployed, Student
from kdsearch.training.quantizers import Codebook

OPSET = 25
"""The first with INT2."""
INPUT, OUTPUT = "images", "logits"
BYTE_TABLE = "bits_of_a_byte"
PACKED_NODES, PACKED_TABLE = 300, 2200
"""Bytes that 1 bit in packed bytes takes besides the bits: nodes of each layer, and once the table. Where INT2 is smaller it is used."""


def onnx_models(student: Student, *, float_input: bool = False) -> tuple[Any, int]:
    """The model as an ``onnx.ModelProto``, and the size in bytes of the same model with every weight as float32.

    Input ``images`` (batch, C, H, W): uint8, or float32 of 0 to 255 with ``float_input``. Output ``logits`` (batch, classes).

    Raises:
        UsageError: the packages of the extra ``export`` are not installed.
        ExportError: torch cannot draw the network's graph.
    """
    model = _traced(student.deployed, float_input)
    float_bytes = model.ByteSize()
    names = {f"student.{name}": name for name in student.codes}
    present = {tensor.name for tensor in model.graph.initializer}
    if missing := sorted(set(names) - present):
        raise ExportError(f"the traced graph lacks the weights {', '.join(missing)}; does the network use them as they are?")
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    added = _Added(_worth_packing(student))
    for value, name in names.items():
        added.weight(value, *student.codes[name], packed=name in added.pack_bits)
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *added.initializers])
    nodes = [*added.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, float_bytes


def import_onnx() -> Any:
    """The package ``onnx``. Raises UsageError where the extra ``export`` is not installed."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ONNX export needs the package {error.name}; install it with: pip install 'kdsearch[export]', or leave the format onnx out"
        ) from None
    return onnx


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporter talks; what matters comes out as an error."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir", "torch.__trace")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _copysign() -> Callable[..., Any]:
    """|x| with the sign of y, which ONNX has no operator for; quantizers round with it."""
    from onnxscript import opset18 as op

    def copysign(x: Any, y: Any) -> Any:
        size = op.Abs(x)
        return op.Where(op.Less(y, op.Constant(value_float=0.0)), op.Neg(size), size)

    return copysign


def _traced(deployed: Deployed, float_input: bool) -> Any:
    """The float32 model as torch draws it, with short value names and nothing of this machine's paths in it."""
    onnx = import_onnx()
    s = deployed.signature
    example = torch.zeros(2, s.channels, s.height, s.width, dtype=torch.float32 if float_input else torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.aten.copysign.Tensor: _copysign()},
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # whatever torch's tracing of a person's network raises
        raise ExportError(f"torch cannot draw the network's graph: {type(error).__name__}: {str(error)[:500]}") from error
    assert program is not None
    graph = program.model.graph
    outputs = set(graph.outputs)
    for number, node in enumerate(graph.all_nodes()):
        # Short, and so that no intermediate value has a parameter's name. Paths and stack traces of this machine go.
        node.metadata_props.clear()
        node.name, node.doc_string = None, None
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value not in outputs:
                value.name = f"v{number}" if len(node.outputs) == 1 else f"v{number}_{index}"
    model = program.model_proto
    for holder in (model, model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del holder.metadata_props[:]
    del model.graph.value_info[:]
    model.producer_name, model.doc_string = "kdsearch", ""
    used = {name for node in model.graph.node for name in node.input} | {OUTPUT}
    if not any(attribute.g.node for node in model.graph.node for attribute in node.attribute):
        tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
    onnx.checker.check_model(model)
    return model


def _worth_packing(student: Student) -> frozenset[str]:
    """Weights of codes ±1 whose bits in bytes are smaller than INT2, nodes and table included."""
    saved = {
        name: codes.numel() / 8 - PACKED_NODES
        for name, (codes, book) in student.codes.items()
        if book.scale is not None and book.offset is None and book.bucket is None and bool((codes.abs() == 1).all())
    }
    worth = {name: size for name, size in saved.items() if size > 0}
    return frozenset(worth) if sum(worth.values()) > PACKED_TABLE else frozenset()


@dataclass
class _Added:
    """Initializers and nodes that rebuild the quantized weights."""

    pack_bits: frozenset[str]
    """Weights that are stored as one bit each."""
    initializers: list[Any] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def weight(self, value: str, codes: Tensor, book: Codebook, *, packed: bool) -> None:
        """Nodes whose result is called ``value``: the weight of ``codes`` and ``book``."""
        packing = packing_of(codes, book.bucket)
        if book.table is not None:
            self._table(value, codes, book.table)
        elif book.bucket is not None:
            self._buckets(value, codes, book, packing)
        elif packed:
            self._one_bit(value, codes, book)
        else:
            self._linear(value, codes, book, packing)

    def _linear(self, value: str, codes: Tensor, book: Codebook, packing: Packing) -> None:
        """code·scale; codes that no signed type of their bits holds (all odd: DoReFa) are stored unsigned."""
        assert book.scale is not None
        scale = book.scale.detach().float().numpy()
        axis = {} if scale.size == 1 else {"axis": 0}
        shape: list[int] = [] if scale.size == 1 else [scale.size]
        bits, signed = _signed_bits(codes)
        if book.offset is None and bits <= max(packing.bits, 2):
            self._integers(f"{value}#codes", signed, bits, True, tuple(codes.shape))
            self._floats(f"{value}#scale", scale.reshape(shape))
            self._node("DequantizeLinear", [f"{value}#codes", f"{value}#scale"], value, **axis)
            return
        # Integers first, then the scale, as in PyTorch: the same single rounding.
        self._integers(f"{value}#codes", stored(codes, packing), max(packing.bits, 2), False, tuple(codes.shape))
        self._floats(f"{value}#stride", np.array(packing.stride))
        self._floats(f"{value}#base", np.array(packing.base))
        self._floats(f"{value}#scale", scale.reshape(_broadcast(book.scale)))
        self._node("DequantizeLinear", [f"{value}#codes", f"{value}#stride"], f"{value}#steps")
        self._node("Add", [f"{value}#steps", f"{value}#base"], f"{value}#whole")
        if book.offset is None:
            self._node("Mul", [f"{value}#whole", f"{value}#scale"], value)
            return
        self._floats(f"{value}#offset", book.offset.detach().float().numpy().reshape(_broadcast(book.offset)))
        self._node("Mul", [f"{value}#whole", f"{value}#scale"], f"{value}#product")
        self._node("Add", [f"{value}#product", f"{value}#offset"], value)

    def _one_bit(self, value: str, codes: Tensor, book: Codebook) -> None:
        """±scale from bits: each byte is looked up in a table of eight signs."""
        assert book.scale is not None
        if BYTE_TABLE not in self._known:
            bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
            self._tensor(f"{BYTE_TABLE}#int8", (2 * bits - 1).astype(np.int8))
            self._node("Cast", [f"{BYTE_TABLE}#int8"], BYTE_TABLE, to=1)
            self._known.add(BYTE_TABLE)
        self._tensor(f"{value}#codes", pack((codes.flatten() > 0).to(torch.uint8).numpy(), 1))
        self._node("Cast", [f"{value}#codes"], f"{value}#index", to=6)
        self._node("Gather", [BYTE_TABLE, f"{value}#index"], f"{value}#bits")
        self._shaped(f"{value}#bits", f"{value}#signs", tuple(codes.shape), 8 * math.ceil(codes.numel() / 8))
        self._floats(f"{value}#scale", book.scale.detach().float().numpy().reshape(_broadcast(book.scale)))
        self._node("Mul", [f"{value}#signs", f"{value}#scale"], value)

    def _buckets(self, value: str, codes: Tensor, book: Codebook, packing: Packing) -> None:
        """code·scale + offset with one scale and offset for each run of ``bucket`` weights, filters or not."""
        assert book.scale is not None and book.bucket is not None
        buckets = book.scale.numel()
        flat = codes.flatten().to(torch.int32).numpy()
        flat = np.pad(flat, (0, buckets * book.bucket - flat.size)).astype(np.uint8).reshape(buckets, book.bucket)
        bits = next(width for width in (2, 4, 8) if 2**width > int(flat.max()))
        self._integers(f"{value}#codes", flat, bits, False, flat.shape)
        self._floats(f"{value}#scale", book.scale.detach().float().numpy())
        self._node("DequantizeLinear", [f"{value}#codes", f"{value}#scale"], f"{value}#rows", axis=0)
        if book.offset is not None:
            self._floats(f"{value}#offset", book.offset.detach().float().numpy()[:, None])
            self._node("Add", [f"{value}#rows", f"{value}#offset"], f"{value}#values")
        self._shaped(f"{value}#values" if book.offset is not None else f"{value}#rows", value, tuple(codes.shape), flat.size)

    def _table(self, value: str, codes: Tensor, table: Tensor) -> None:
        """table[code]."""
        values = codes.flatten().to(torch.int32).numpy().astype(np.uint8)
        bits = next(width for width in (2, 4, 8) if 2**width > int(values.max()))
        self._integers(f"{value}#codes", values, bits, False, tuple(codes.shape))
        self._floats(f"{value}#one", np.ones((), np.float32))
        self._floats(f"{value}#table", table.detach().float().numpy())
        self._node("DequantizeLinear", [f"{value}#codes", f"{value}#one"], f"{value}#real")
        self._node("Cast", [f"{value}#real"], f"{value}#index", to=6)
        self._node("Gather", [f"{value}#table", f"{value}#index"], value)

    def _shaped(self, source: str, target: str, shape: tuple[int, ...], have: int) -> None:
        """The first values of ``source`` in ``shape``."""
        want = math.prod(shape)
        if have > want:
            self._tensor(f"{target}#all", np.array([-1]))
            self._node("Reshape", [source, f"{target}#all"], f"{target}#flat")
            self._tensor(f"{target}#from", np.array([0]))
            self._tensor(f"{target}#to", np.array([want]))
            self._node("Slice", [f"{target}#flat", f"{target}#from", f"{target}#to"], f"{target}#cut")
            source = f"{target}#cut"
        self._tensor(f"{target}#shape", np.array(shape))
        self._node("Reshape", [source, f"{target}#shape"], target)

    def _integers(self, name: str, values: Any, bits: int, signed: bool, shape: tuple[int, ...]) -> None:
        import onnx

        kind = getattr(onnx.TensorProto, f"{'' if signed else 'U'}INT{bits}")
        low = np.asarray(values).astype(np.int16).reshape(-1)
        raw = pack((low & (2**bits - 1)).astype(np.uint8), bits).tobytes()
        self.initializers.append(onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=raw))

    def _floats(self, name: str, values: Any) -> None:
        self._tensor(name, np.asarray(values, dtype=np.float32))

    def _tensor(self, name: str, values: Any) -> None:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))


def _signed_bits(codes: Tensor) -> tuple[int, Any]:
    """The narrowest signed type that holds the codes as they are (99 where none does), and the codes."""
    low, high = int(codes.min()), int(codes.max())
    bits = next((width for width in (2, 4, 8) if -(2 ** (width - 1)) <= low and high < 2 ** (width - 1)), 99)
    return bits, codes.numpy()


def _broadcast(scale: Tensor) -> tuple[int, ...]:
    return () if scale.numel() == 1 else tuple(scale.shape)


def onnx_runner(path: Path) -> Callable[[Tensor], Any]:
    """The file in ONNX Runtime on the CPU, as a function of (B, C, H, W) uint8 pictures."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    as_float = "float" in session.get_inputs()[0].type

    def run(images: Tensor) -> Any:
        array = images.numpy()
        return session.run([OUTPUT], {INPUT: array.astype(np.float32) if as_float else array})[0]

    return run
