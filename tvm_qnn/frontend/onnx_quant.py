"""Converters of ONNX quantization: QuantizeLinear, DequantizeLinear, and codebooks (Gather)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.onnx_graph import Node, Value
from tvm_qnn.frontend.onnx_load import CODES, type_name
from tvm_qnn.frontend.record import Refused, quoted
from tvm_qnn.ops import build
from tvm_qnn.spec import Codes, QType

_CODEBOOK = 256


@dataclass(frozen=True)
class Parameters:
    """Checked parameters of a quantizer; ``zero`` is None where the node has no zero point."""

    scale: NDArray[np.float32]
    zero: NDArray[np.int64] | None
    zero_kind: int


def parameters(
    proto: NodeProto, inputs: list[Value | None], attrs: dict[str, Any], at: int = 1
) -> Parameters:
    """Check a scale (input ``at``) and the zero point after it, which must be constants.

    This needs no shapes, so that it also works below nodes that cannot be imported.
    """
    if attrs.get("block_size", 0):
        raise Refused("blocked quantization (block_size) is not supported; use per-axis scales")
    names = [*proto.input, "", ""]
    scale = inputs[at] if len(inputs) > at else None
    zero = inputs[at + 1] if len(inputs) > at + 1 else None
    if scale is None or scale.data is None:
        raise Refused(
            f"scale {quoted(names[at])} is not a constant; quantize statically, with scales "
            "stored in the model"
        )
    if scale.kind != TensorProto.FLOAT:
        raise Refused(f"scale {quoted(names[at])} is {type_name(scale.kind)}, float is needed")
    if scale.data.ndim > 1:
        raise Refused(
            f"scale {quoted(names[at])} has shape {list(scale.shape)} (blocked quantization); only "
            "one scale, or one per index of an axis, is supported"
        )
    values = scale.data.reshape(-1).astype(np.float32)
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size or not values.size:
        found = f"{bad[0]}" if bad.size else "nothing"
        raise Refused(f"scale {quoted(names[at])} must be positive and finite, found {found}")
    if not names[at + 1]:
        return Parameters(values, None, 0)
    if zero is None or zero.data is None:
        raise Refused(f"zero point {quoted(names[at + 1])} is not a constant")
    if zero.kind not in CODES:
        raise Refused(f"zero point {quoted(names[at + 1])} is {type_name(zero.kind)}")
    zeros = zero.data.reshape(-1).astype(np.int64)
    if zero.data.ndim > 1 or zeros.size != values.size:
        raise Refused(
            f"zero point {quoted(names[at + 1])} has shape {list(zero.shape)}, scale "
            f"{quoted(names[at])} has shape {list(scale.shape)}; they must be alike"
        )
    return Parameters(values, zeros, zero.kind)


def qtype_of(n: Node, found: Parameters, kind: int, shape: tuple[int, ...], given: int) -> QType:
    """Return the type of codes of element type ``kind``; ``given`` is the axis of many scales."""
    axis = None
    if found.scale.size > 1:
        axis = given + len(shape) if given < 0 else given
        n.need(0 <= axis < len(shape), f"axis {given} of a tensor of shape {list(shape)}")
        n.need(
            shape[axis] == found.scale.size,
            f"{found.scale.size} scales for axis {axis} of length {shape[axis]}",
        )
    zero = (0,) if found.zero is None else tuple(int(z) for z in found.zero)
    if len(set(zero)) == 1:
        zero = zero[:1]
    return QType(CODES[kind], tuple(float(s) for s in found.scale), zero, axis)


def _axis(n: Node) -> int:
    return int(n.attrs.get("axis", 1))


def quantize_linear(n: Node) -> Any:
    """QuantizeLinear: ``qnn.quantize`` with round half to even."""
    found = parameters(n.proto, n.inputs, n.attrs)
    x, out = n.input(0), n.result()
    n.need(x.dtype == "float32", f"its input is {type_name(x.kind)}, float is needed")
    n.need(n.attrs.get("precision", 0) in (0, TensorProto.FLOAT), "precision must be float")
    n.need(
        found.zero is None or found.zero_kind == out.kind,
        f"zero point is {type_name(found.zero_kind)}, the result {type_name(out.kind)}",
    )
    n.need(out.kind in CODES, f"codes of {type_name(out.kind)} are not supported")
    return build.quantize(x.use(), qtype_of(n, found, out.kind, x.shape, _axis(n)))


def dequantize_linear(n: Node) -> Any:
    """DequantizeLinear: ``qnn.dequantize``; constants of int32 (biases) become float constants."""
    found = parameters(n.proto, n.inputs, n.attrs)
    x, out = n.input(0), n.result()
    n.need(x.kind in CODES, f"codes of {type_name(x.kind)} are not supported")
    n.need(
        found.zero is None or found.zero_kind == x.kind,
        f"zero point is {type_name(found.zero_kind)}, the codes {type_name(x.kind)}",
    )
    qtype = qtype_of(n, found, x.kind, x.shape, _axis(n))
    if x.kind == TensorProto.INT32:
        n.need(set(qtype.zero) == {0}, "a zero point other than 0 for int32 codes")
        if x.data is not None:
            return Value(out.kind, out.shape, data=qtype.dequantize(x.data))
    return build.dequantize(x.use(), qtype)


def gather(n: Node) -> Any:
    """Gather: ``qnn.lookup`` for constant indices into a codebook, else ``R.take``."""
    table, index = n.input(0), n.input(1)
    axis = int(n.attrs.get("axis", 0))
    axis = axis + len(table.shape) if axis < 0 else axis
    n.need(0 <= axis < len(table.shape), f"axis {axis} of a tensor of shape {list(table.shape)}")
    length = table.shape[axis]
    if index.data is not None:
        picked = index.data.astype(np.int64)
        bad = picked[(picked < -length) | (picked >= length)]
        n.need(not bad.size, f"index {bad[:1].tolist()} of an axis of length {length}")
        picked = np.where(picked < 0, picked + length, picked)
        if _is_codebook(table) and len(table.shape) == 1:
            return _lookup(n, table.data, picked, None)
        return relax.op.take(table.use(), relax.const(picked, "int64"), axis=axis, mode="clip")
    where = index.use()
    if not index.indices:
        zero, size = relax.const(0, index.dtype), relax.const(length, index.dtype)
        shifted = n.emit(relax.op.add(where, size))
        negative = n.emit(relax.op.less(where, zero))
        where = n.emit(relax.op.where(negative, shifted, where))
    # ONNX leaves indices out of range undefined; clipping keeps every target inside the table.
    return relax.op.take(table.use(), where, axis=axis, mode="clip")


def gather_elements(n: Node) -> Any:
    """GatherElements from one codebook a row: ``qnn.lookup`` with an axis."""
    table, index = n.input(0), n.input(1)
    n.need(
        _is_codebook(table) and len(table.shape) == 2 and n.attrs.get("axis", 0) in (1, -1),
        "only constant codebooks [rows, values] with axis 1 are supported",
    )
    rows = n.constant(0, "codebook")
    picked = n.constant(1, "index into a codebook").astype(np.int64)
    n.need(index.shape[0] <= len(rows), f"{index.shape[0]} rows of {len(rows)}")
    length = rows.shape[1]
    n.need(((picked >= -length) & (picked < length)).all(), f"an index beyond {length} values")
    rows = rows[: index.shape[0]]
    return _lookup(n, rows, np.where(picked < 0, picked + length, picked), 0)


def _is_codebook(table: Value) -> bool:
    return (
        table.data is not None
        and table.kind == TensorProto.FLOAT
        and 0 < table.shape[-1] <= _CODEBOOK
        and bool(np.isfinite(table.data).all())
    )


def _lookup(n: Node, table: Any, picked: NDArray[np.int64], axis: int | None) -> Any:
    rows = np.atleast_2d(table)
    codes = Codes(0, rows.shape[1] - 1)
    book = tuple(tuple(float(v) for v in row) for row in rows)
    qtype = QType(codes, axis=axis, codebook=book)
    return build.dequantize(build.const(picked, codes.dtype), qtype)
