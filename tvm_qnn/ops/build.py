"""Constructors of ``qnn.*`` calls from records and numpy arrays, used by frontends and passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tvm_qnn._tvm import relax
from tvm_qnn.ops.dialect import code_attrs, make
from tvm_qnn.spec import Codes, QType
from tvm_qnn.spec.layers import Pads


def const(value: ArrayLike, dtype: str) -> Any:
    """Return a Relax constant."""
    return relax.const(np.asarray(value).astype(dtype), dtype)


def _parameter(values: Sequence[float] | Sequence[int], dtype: str) -> Any:
    return const(values[0] if len(values) == 1 else values, dtype)


def quantize(x: Any, qtype: QType, rounding: str = "half_even") -> Any:
    """Quantize a float32 tensor to ``qtype`` (no codebook): ``qnn.quantize``."""
    return make(
        "qnn.quantize",
        [x, _parameter(qtype.scale, "float32"), _parameter(qtype.zero, "int32")],
        **code_attrs(qtype.codes),
        axis=qtype.axis,
        rounding=rounding,
    )


def dequantize(q: Any, qtype: QType) -> Any:
    """Return the real values of codes: ``qnn.dequantize``, or ``qnn.lookup`` for a codebook."""
    if qtype.codebook is not None:
        rows = qtype.codebook
        table = const(rows[0] if len(rows) == 1 else rows, "float32")
        return make("qnn.lookup", [q, table], **code_attrs(qtype.codes), axis=qtype.axis)
    return make(
        "qnn.dequantize",
        [q, _parameter(qtype.scale, "float32"), _parameter(qtype.zero, "int32")],
        **code_attrs(qtype.codes),
        axis=qtype.axis,
    )


def conv2d(
    x: Any,
    w: Any,
    *,
    x_codes: Codes,
    x_zero: int,
    w_codes: Codes,
    w_zero: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
    dilation: Sequence[int],
    groups: int,
    **more: Any,
) -> Any:
    """Integer convolution of codes NHWC and OHWI: ``qnn.conv2d``, int32."""
    return make(
        "qnn.conv2d",
        [x, w],
        **code_attrs(x_codes, "x_"),
        **code_attrs(w_codes, "w_"),
        **{"x_zero": x_zero, "w_zero": list(w_zero), "x_layout": "codes", **more},
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
        groups=groups,
    )


def dense(
    x: Any, w: Any, *, x_codes: Codes, x_zero: int, w_codes: Codes, w_zero: Sequence[int],
    **more: Any,
) -> Any:  # fmt: skip
    """Integer matrix product of codes [..., K] and [O, K]: ``qnn.dense``, int32."""
    return make(
        "qnn.dense",
        [x, w],
        **code_attrs(x_codes, "x_"),
        **code_attrs(w_codes, "w_"),
        **{"x_zero": x_zero, "w_zero": list(w_zero), "x_layout": "codes", **more},
    )


def affine(acc: Any, mul: ArrayLike, add: ArrayLike) -> Any:
    """Scale accumulators [..., C] to float32: ``qnn.affine``.

    The factors are kept in float64 until the epilogues are folded, then rounded once.
    """
    return make("qnn.affine", [acc, const(mul, "float64"), const(add, "float64")])


def requantize(
    acc: Any, mul: ArrayLike, add: ArrayLike, codes: Codes, zero: int, rounding: str
) -> Any:
    """Turn accumulators [..., C] into codes: ``qnn.requantize``."""
    return make(
        "qnn.requantize",
        [acc, const(mul, "float32"), const(add, "float32")],
        **code_attrs(codes),
        zero=zero,
        rounding=rounding,
    )


def threshold(acc: Any, thresholds: ArrayLike, falling: ArrayLike, codes: Codes) -> Any:
    """Turn accumulators [..., C] into codes by thresholds [C, count - 1]: ``qnn.threshold``."""
    return make(
        "qnn.threshold",
        [acc, const(thresholds, "int32"), const(falling, "int32")],
        **code_attrs(codes),
    )


def add(
    a: Any, b: Any, *, a_mul: float, b_mul: float, offset: float, codes: Codes, zero: int,
    rounding: str,
) -> Any:  # fmt: skip
    """Add two quantized tensors and requantize: ``qnn.add``."""
    return make(
        "qnn.add",
        [a, b],
        **code_attrs(codes),
        a_mul=float(np.float32(a_mul)),
        b_mul=float(np.float32(b_mul)),
        offset=float(np.float32(offset)),
        zero=zero,
        rounding=rounding,
    )


def max_pool2d(
    x: Any, kernel: Sequence[int], *, codes: Codes, strides: Sequence[int], padding: Pads,
    dilation: Sequence[int],
) -> Any:  # fmt: skip
    """Maximum of codes over windows: ``qnn.max_pool2d``."""
    return make(
        "qnn.max_pool2d",
        [x],
        **code_attrs(codes),
        kernel=list(kernel),
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
    )


def sum_pool2d(
    x: Any, kernel: Sequence[int], *, codes: Codes, zero: int, strides: Sequence[int],
    padding: Pads,
) -> Any:  # fmt: skip
    """Sum of ``x - zero`` over windows: ``qnn.sum_pool2d``, int32."""
    return make(
        "qnn.sum_pool2d",
        [x],
        **code_attrs(codes),
        zero=zero,
        kernel=list(kernel),
        strides=list(strides),
        padding=list(padding),
        dilation=[1, 1],
    )


def pack(x: Any, codes: Codes) -> Any:
    """Pack the last axis into bit planes of 32-bit words: ``qnn.pack``."""
    return make("qnn.pack", [x], **code_attrs(codes))
