"""Kernels of the operators that are not convolutions: conversions, sums, pooling and packing.

Each is a tensor expression that repeats its definition in ``tvm_qnn.spec``, with one schedule for
all: channels in vectors, everything else in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_qnn._tvm import s_tir, te, tirx, tvm
from tvm_qnn.schedules import cuda
from tvm_qnn.schedules.epilogue import ROUND
from tvm_qnn.schedules.ir import STATIC_ATTRS, unfused
from tvm_qnn.spec import Codes, output_size
from tvm_qnn.targets.record import Target

LANES = 16
Shape = Sequence[int]


def to_codes(y: Any, codes: Codes, zero: int, rounding: str) -> Any:
    """Round a finite float32 and clip it to codes, in floats first so that int32 holds it."""
    rounded = ROUND[rounding](y)
    if codes.step != 1:
        index = _clip(rounded, 0, codes.count - 1)
        return (index * codes.step + codes.lo).astype(codes.dtype)
    return (_clip(rounded, codes.lo - zero, codes.hi - zero) + zero).astype(codes.dtype)


def _clip(y: Any, lo: int, hi: int) -> Any:
    low, high = tirx.const(lo, "float32"), tirx.const(hi, "float32")
    return tirx.max(tirx.min(y, high), low).astype("int32")


def _no_nan(y: Any) -> Any:
    """Count NaN as 0. TVM takes ``y == y`` for true, so NaN is asked for by name."""
    return tirx.Select(tirx.isnan(y), tirx.const(0, "float32"), y)


def _parameter(tensor: Any, index: Sequence[Any], axis: int | None) -> Any:
    """Read a scalar or a per-axis parameter."""
    if len(tensor.shape) == 0:
        return tensor()
    return tensor[index[axis] if axis is not None and int(tensor.shape[0]) > 1 else 0]


def quantize(
    shape: Shape, sizes: Sequence[Shape], codes: Codes, axis: int | None, rounding: str
) -> Any:
    """``spec.quantize``: (x float32, scale float32, zero int32, out codes)."""
    x = te.placeholder(shape, "float32", "x")
    scale = te.placeholder(sizes[0], "float32", "scale")
    zero = te.placeholder(sizes[1], "int32", "zero")

    def body(*i: Any) -> Any:
        z = _parameter(zero, i, axis)
        y = x(*i) / _parameter(scale, i, axis)
        if codes.step != 1:
            y = (y + (z - codes.lo).astype("float32")) / tirx.const(codes.step, "float32")
            return to_codes(_no_nan(y), codes, 0, rounding)
        y = _no_nan(y)
        # The zero point is a tensor: bound the float far outside of the codes, then clip integers.
        bounded = _clip(ROUND[rounding](y), -(1 << 24), 1 << 24) + z
        clipped = tirx.max(tirx.min(bounded, tirx.const(codes.hi, "int32")), codes.lo)
        return clipped.astype(codes.dtype)

    return finish("quantize", [x, scale, zero], te.compute(shape, body, "out"))


def dequantize(shape: Shape, sizes: Sequence[Shape], codes: Codes, axis: int | None) -> Any:
    """``spec.dequantize``: (q codes, scale float32, zero int32, out float32)."""
    q = te.placeholder(shape, codes.dtype, "q")
    scale = te.placeholder(sizes[0], "float32", "scale")
    zero = te.placeholder(sizes[1], "int32", "zero")
    out = te.compute(
        shape,
        lambda *i: (
            (q(*i).astype("int32") - _parameter(zero, i, axis)).astype("float32")
            * _parameter(scale, i, axis)
        ),
        "out",
    )
    return finish("dequantize", [q, scale, zero], out)


def lookup(shape: Shape, table_shape: Shape, codes: Codes, axis: int | None) -> Any:
    """``spec.dequantize`` of a codebook: (q codes, table float32 [M] or [C, M], out float32)."""
    q = te.placeholder(shape, codes.dtype, "q")
    table = te.placeholder(table_shape, "float32", "table")

    def body(*i: Any) -> Any:
        code = q(*i).astype("int32")
        if len(table_shape) == 1:
            return table[code]
        return table[i[axis] if axis is not None and table_shape[0] > 1 else 0, code]

    return finish("lookup", [q, table], te.compute(shape, body, "out"))


def affine(shape: Shape, dtype: str, sizes: Sequence[Shape]) -> Any:
    """``spec.affine``: (acc, mul float32, add float32, out float32)."""
    acc, mul, add = _scaled_inputs(shape, dtype, sizes)
    out = te.compute(shape, lambda *i: _affine(acc(*i), mul, add, i), "out")
    return finish("affine", [acc, mul, add], out)


def requantize(
    shape: Shape, dtype: str, sizes: Sequence[Shape], codes: Codes, zero: int, rounding: str
) -> Any:
    """``spec.requantize``: (acc, mul float32, add float32, out codes)."""
    acc, mul, add = _scaled_inputs(shape, dtype, sizes)
    out = te.compute(
        shape, lambda *i: to_codes(_affine(acc(*i), mul, add, i), codes, zero, rounding), "out"
    )
    return finish("requantize", [acc, mul, add], out)


def _scaled_inputs(shape: Shape, dtype: str, sizes: Sequence[Shape]) -> tuple[Any, Any, Any]:
    return (
        te.placeholder(shape, dtype, "acc"),
        te.placeholder(sizes[0], "float32", "mul"),
        te.placeholder(sizes[1], "float32", "add"),
    )


def _affine(acc: Any, mul: Any, add: Any, index: Sequence[Any]) -> Any:
    axis = len(index) - 1
    product = acc.astype("float32") * _parameter(mul, index, axis)
    return unfused(product) + _parameter(add, index, axis)


def threshold(shape: Shape, codes: Codes) -> Any:
    """``spec.threshold``: (acc int32, thresholds int32 [C, T], falling int32 [C], out codes)."""
    acc = te.placeholder(shape, "int32", "acc")
    levels = te.placeholder((shape[-1], codes.count - 1), "int32", "thresholds")
    falling = te.placeholder((shape[-1],), "int32", "falling")

    def body(*i: Any) -> Any:
        c, index = i[-1], tirx.const(0, "int32")
        for t in range(codes.count - 1):
            level = levels[c, t]
            met = tirx.Select(falling[c] != 0, acc(*i) <= level, acc(*i) >= level)
            index = index + met.astype("int32")
        return (index * codes.step + codes.lo).astype(codes.dtype)

    return finish("threshold", [acc, levels, falling], te.compute(shape, body, "out"))


def add(
    shape: Shape, dtypes: tuple[str, str], factors: tuple[float, float, float], codes: Codes,
    zero: int, rounding: str,
) -> Any:  # fmt: skip
    """``spec.add``: (a codes, b codes, out codes); ``factors`` are a_mul, b_mul and offset."""
    a = te.placeholder(shape, dtypes[0], "a")
    b = te.placeholder(shape, dtypes[1], "b")
    a_mul, b_mul, offset = (tirx.const(f, "float32") for f in factors)

    def body(*i: Any) -> Any:
        first = unfused(a(*i).astype("float32") * a_mul) + offset
        second = unfused(b(*i).astype("float32") * b_mul)
        return to_codes(first + second, codes, zero, rounding)

    return finish("add", [a, b], te.compute(shape, body, "out"))


def pool2d(
    shape: Shape, codes: Codes, kernel: Shape, strides: Shape, padding: Shape, dilation: Shape,
    zero: int | None,
) -> Any:  # fmt: skip
    """``spec.max_pool2d`` (``zero`` is None) or ``spec.sum_pool2d``: (x codes NHWC, out)."""
    n, height, width, channels = shape
    top, left, bottom, right = padding
    out_h = output_size(height, kernel[0], strides[0], top + bottom, dilation[0])
    out_w = output_size(width, kernel[1], strides[1], left + right, dilation[1])
    x = te.placeholder(shape, codes.dtype, "x")
    largest = zero is None
    dtype = codes.dtype if largest else "int32"

    def tap(b: Any, h: Any, w: Any, c: Any) -> Any:
        value = x[b, h, w, c]
        value = value if largest else value.astype("int32") - zero
        if not any(padding):
            return value
        inside = tirx.all(h >= 0, h < height, w >= 0, w < width)
        return tirx.if_then_else(inside, value, tirx.const(codes.lo if largest else 0, dtype))

    kh, kw = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    combine = te.max if largest else te.sum

    def window(b: Any, h: Any, w: Any, c: Any) -> Any:
        row = h * strides[0] + kh * dilation[0] - top
        column = w * strides[1] + kw * dilation[1] - left
        return combine(tap(b, row, column, c), axis=[kh, kw])

    out = te.compute((n, out_h, out_w, channels), window, "out")
    return finish("max_pool2d" if largest else "sum_pool2d", [x], out)


def pack(shape: Shape, codes: Codes) -> Any:
    """``spec.pack_planes`` in 32-bit words: (x codes [..., C], out uint32 [..., bits, words])."""
    channels = shape[-1]
    words = -(-channels // 32)
    x = te.placeholder(shape, codes.dtype, "x")
    bit = te.reduce_axis((0, 32), "bit")

    def body(*i: Any) -> Any:
        *where, plane, word = i
        channel = word * 32 + bit
        index = (x(*where, channel).astype("int32") - codes.lo) // codes.step
        if channels % 32:
            index = tirx.if_then_else(channel < channels, index, tirx.const(0, "int32"))
        one = tirx.bitwise_and(tirx.shift_right(index, plane), tirx.const(1, "int32"))
        return te.sum(tirx.shift_left(one.astype("uint32"), bit.astype("uint32")), axis=[bit])

    out = te.compute((*shape[:-1], codes.bits, words), body, "out")
    return finish("pack", [x], out)


def finish(name: str, inputs: Sequence[Any], out: Any) -> Any:
    """Make the PrimFunc ``qnn_name``, whose one block is ``out``."""
    return te.create_prim_func([*inputs, out]).with_attr("global_symbol", f"qnn_{name}")


def scheduled(func: Any, target: Target) -> Any:
    """Schedule a function of this file for a target."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    if target.gpu is not None:
        cuda.bind(sch, sch.get_sblock("out"))
    else:
        _vectorize(sch)
    return sch.mod["main"].with_attrs(STATIC_ATTRS)


def _vectorize(sch: Any) -> None:
    """Put the last axis in vectors inside of the reduction."""
    block = sch.get_sblock("out")
    loops = sch.get_loops(block)
    rank = len(sch.get(block).writes[0].source.shape)
    if rank and (last := int(sch.get(loops[rank - 1]).extent)) > 1:
        lanes = LANES if last >= LANES else last
        outer, inner = sch.split(loops[rank - 1], [None, lanes])
        reduction = loops[rank:]
        if reduction:
            sch.reorder(outer, *reduction, inner)
        if last % lanes == 0:
            sch.vectorize(inner)
    if loops[rank:]:
        sch.decompose_reduction(block, loops[rank])
