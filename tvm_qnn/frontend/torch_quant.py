"""Converters of ``quantized_decomposed``, the quantizers of PyTorch's own export quantization.

They multiply by the reciprocal of the scale where ONNX divides by the scale, so that quantizers
become plain arithmetic and not ``qnn.quantize``; dequantizers mean the same in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.record import Refused
from tvm_qnn.frontend.torch_graph import Node, Value
from tvm_qnn.ops import build
from tvm_qnn.spec import Codes, QType


def _codes(n: Node, x: Value) -> Codes:
    """Return the codes that the node names where they can be checked, else all of the dtype."""
    info = np.iinfo(x.dtype)
    said = Codes(int(n["quant_min"]), int(n["quant_max"]))
    known = x.data is not None and said.contains(x.data) and said.dtype == x.dtype
    return said if known else Codes(int(info.min), int(info.max))


def _checked(scale: Any, zero: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if np.asarray(scale).dtype not in (np.float32, np.float64) or np.asarray(scale).ndim > 1:
        raise Refused("its scales must be float32, one or one per index of an axis")
    scales = np.atleast_1d(np.asarray(scale, np.float32))
    bad = scales[~(np.isfinite(scales) & (scales > 0))]
    if bad.size:
        raise Refused(f"scale must be positive and finite, found {bad[0]}")
    return scales, np.atleast_1d(np.asarray(zero, np.int64))


def _parameters(n: Node) -> tuple[NDArray[np.float32], NDArray[np.int64], int | None]:
    """Return scales, zero points and axis of a node, per tensor or per channel."""
    if n["axis"] is None:
        n.need(isinstance(n["scale"], float), "its scale is not a constant; quantize statically")
        scale, zero = _checked(n["scale"], n["zero_point"])
        return scale, zero, None
    scales = n.value("scales")
    given = n["zero_points"] is not None
    zeros = n.value("zero_points").data if given else np.zeros(scales.shape, np.int64)
    if scales.data is None or zeros is None:
        raise Refused("its scales and zero points are not constants; quantize statically")
    n.need(scales.dtype == "float32", f"its scales are {scales.dtype}, float32 is needed")
    scale, zero = _checked(scales.data, zeros)
    rank = len(n.shape)
    axis = int(n["axis"]) % rank
    n.need(
        scale.shape == zero.shape == (n.shape[axis],),
        f"{scale.size} scales, {zero.size} zero points for axis {axis} of length {n.shape[axis]}",
    )
    return scale, zero, axis


def quantize(n: Node) -> Any:
    """quantize_per_tensor and quantize_per_channel: multiply, round, add, clip, convert."""
    scale, zero, axis = _parameters(n)
    shape = [1] * len(n.shape)
    if axis is not None:
        shape[axis] = scale.size
    # A scale of the whole tensor is a Python number, whose reciprocal is taken in double precision.
    inverse = (1.0 / float(n["scale"])) if axis is None else np.float32(1) / scale
    low, high = float(n["quant_min"]), float(n["quant_max"])
    n.need(low <= high, f"quant_min {low} is above quant_max {high}")
    factor = np.asarray(inverse, np.float32).reshape(shape if axis is not None else ())
    offset = zero.astype(np.float32).reshape(shape if axis is not None else ())
    y = n.emit(relax.op.multiply(n.operand("input", "float32"), relax.const(factor, "float32")))
    y = n.emit(relax.op.round(y))
    if zero.any():
        y = n.emit(relax.op.add(y, relax.const(offset, "float32")))
    return relax.op.astype(n.emit(relax.op.clip(y, low, high)), n.dtype)


def dequantize(n: Node) -> Any:
    """dequantize_per_tensor and dequantize_per_channel: ``qnn.dequantize``."""
    x = n.value("input")
    n.need(x.dtype in ("int8", "uint8", "int16", "int32"), f"codes of {x.dtype} are not supported")
    scale, zero, axis = _parameters(n)
    kind = QType(_codes(n, x), tuple(float(s) for s in scale), tuple(int(z) for z in zero), axis)
    if x.dtype == "int32" and x.data is not None and not zero.any():
        return Value(x.shape, "float32", data=kind.dequantize(x.data))
    return build.dequantize(x.use(), kind)
