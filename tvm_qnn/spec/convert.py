"""Definitions of the conversions between real values, codes and accumulators.

All float arithmetic is float32 with one rounding an operation (no fused multiply-add), in the order
written here. Rounding is named, never implied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_qnn.spec.qtype import Codes, QType

ROUNDINGS = {
    "half_even": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
    "truncate": np.trunc,
}


# What overflows float32 is infinite and saturates: no reason for a warning.
_OVERFLOWS = np.errstate(over="ignore", invalid="ignore")


def along(values: ArrayLike, axis: int | None, ndim: int) -> NDArray[Any]:
    """Shape per-axis parameters of shape [C] (or [1]) so that they broadcast over ``ndim`` axes."""
    a = np.asarray(values)
    if axis is None or a.size == 1:
        return a.reshape(())
    shape = [1] * ndim
    shape[axis] = a.size
    return a.reshape(shape)


def saturate(q: ArrayLike, codes: Codes) -> NDArray[np.generic]:
    """Clip integers to ``codes`` and store them in its dtype."""
    return np.clip(q, codes.lo, codes.hi).astype(codes.dtype)


def round_to_int(x: NDArray[np.float32], rounding: str = "half_even") -> NDArray[np.int64]:
    """Round float32 values to int64; values beyond +-2**40 stop there, NaN becomes 0."""
    rounded = ROUNDINGS[rounding](x.astype(np.float32)).astype(np.float64)
    return np.nan_to_num(np.clip(rounded, -(2.0**40), 2.0**40), nan=0.0).astype(np.int64)


@_OVERFLOWS
def quantize(x: ArrayLike, qtype: QType, rounding: str = "half_even") -> NDArray[np.generic]:
    """Quantize float values: ``clip(round(x / scale) + zero, lo, hi)``.

    This is ONNX QuantizeLinear (float32 division, round half to even, saturate). A codebook picks
    the nearest representation value, the lower code on a tie.

    Args:
        x: float32 values of any shape.
        qtype: the type of the result; per-axis parameters follow ``qtype.axis``.
        rounding: a name in :data:`ROUNDINGS`.

    Returns:
        Codes of the shape of ``x``, dtype ``qtype.codes.dtype``.
    """
    x = np.asarray(x, np.float32)
    if qtype.codebook is not None:
        table = np.asarray(qtype.codebook, np.float32)
        rows = [along(table[:, m], qtype.axis, x.ndim) for m in range(qtype.codes.count)]
        distance = np.stack([np.abs(x - row) for row in rows])
        nearest: NDArray[np.generic] = distance.argmin(axis=0).astype(qtype.codes.dtype)
        return nearest
    scale = along(np.asarray(qtype.scale, np.float32), qtype.axis, x.ndim)
    zero = along(np.asarray(qtype.zero, np.int64), qtype.axis, x.ndim)
    if qtype.codes.step == 1:
        return saturate(round_to_int(x / scale, rounding) + zero, qtype.codes)
    offset = zero - qtype.codes.lo
    index = round_to_int((x / scale + offset.astype(np.float32)) / qtype.codes.step, rounding)
    return qtype.codes.from_index(np.clip(index, 0, qtype.codes.count - 1)).astype(
        qtype.codes.dtype
    )


@_OVERFLOWS
def dequantize(q: ArrayLike, qtype: QType) -> NDArray[np.float32]:
    """Return the real values of codes: ``(q - zero) * scale`` in float32, or ``codebook[q]``.

    This is ONNX DequantizeLinear, and ONNX Gather for a codebook.
    """
    codes = np.asarray(q, np.int64)
    if qtype.codebook is not None:
        table = np.asarray(qtype.codebook, np.float32)
        row = along(np.arange(len(table)), qtype.axis, codes.ndim)
        values: NDArray[np.float32] = table[row, codes]
        return values
    scale = along(np.asarray(qtype.scale, np.float32), qtype.axis, codes.ndim)
    zero = along(np.asarray(qtype.zero, np.int64), qtype.axis, codes.ndim)
    result: NDArray[np.float32] = (codes - zero).astype(np.float32) * scale
    return result


@_OVERFLOWS
def affine(acc: ArrayLike, mul: ArrayLike, add: ArrayLike) -> NDArray[np.float32]:
    """Scale integers to float32: ``float32(acc) * mul + add``, three roundings.

    Args:
        acc: integers [..., C] that fit int32 (or float32 sums of codebook weights).
        mul: float32 [C] or [1].
        add: float32 [C] or [1].
    """
    scaled = np.asarray(acc).astype(np.float32) * np.asarray(mul, np.float32)
    return scaled + np.asarray(add, np.float32)


def requantize(
    acc: ArrayLike,
    mul: ArrayLike,
    add: ArrayLike,
    codes: Codes,
    zero: int = 0,
    rounding: str = "half_even",
) -> NDArray[np.generic]:
    """Turn accumulators into codes: ``clip(round(affine(acc, mul, add)) + zero, lo, hi)``.

    For codes with a step the rounded value numbers the codes: ``lo + step * clip(round(...), 0,
    count - 1)``, and ``zero`` is already part of ``add``.

    Args:
        acc: accumulators [..., C], int32 range (or float32 sums of codebook weights).
        mul: float32 [C] or [1]; may be negative.
        add: float32 [C] or [1].
        codes: range of the result.
        zero: zero point of the result, added after rounding (0 for codes with a step).
        rounding: a name in :data:`ROUNDINGS`.
    """
    rounded = round_to_int(affine(acc, mul, add), rounding)
    if codes.step == 1:
        return saturate(rounded + zero, codes)
    return codes.from_index(np.clip(rounded, 0, codes.count - 1)).astype(codes.dtype)


def threshold(
    acc: ArrayLike, thresholds: ArrayLike, falling: ArrayLike, codes: Codes
) -> NDArray[np.generic]:
    """Turn accumulators into codes by counting thresholds.

    ``index = #{t : acc >= thresholds[c, t]}`` for rising channels and ``#{t : acc <= thresholds[c,
    t]}`` for falling ones; the result is ``lo + step * index``.

    Args:
        acc: accumulators [..., C], int32 range.
        thresholds: int32 [C, count - 1].
        falling: bool [C], True where codes fall as accumulators grow (a negative ``mul``).
        codes: range of the result.
    """
    acc = np.asarray(acc, np.int64)[..., None]
    t = np.asarray(thresholds, np.int64)
    met = np.where(np.asarray(falling, bool)[:, None], acc <= t, acc >= t)
    return codes.from_index(met.sum(axis=-1)).astype(codes.dtype)


def thresholds_of(
    mul: ArrayLike,
    add: ArrayLike,
    codes: Codes,
    acc_range: tuple[int, int],
    zero: int = 0,
    rounding: str = "half_even",
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Derive thresholds that equal :func:`requantize` for every accumulator in ``acc_range``.

    Each float32 operation of :func:`affine` is monotone, so the codes are, and a binary search over
    the accumulators finds where each code begins. A threshold that no accumulator reaches lies one
    beyond the range.

    Args:
        mul: float32 [C].
        add: float32 [C].
        codes: range of the result.
        acc_range: smallest and largest accumulator that can occur; at least one apart from the
            ends of int32.
        zero: see :func:`requantize`.
        rounding: see :func:`requantize`.

    Returns:
        thresholds int32 [C, count - 1] and falling bool [C], as :func:`threshold` takes them.
    """
    mul, add = np.broadcast_arrays(np.asarray(mul, np.float32), np.asarray(add, np.float32))
    lowest, highest = acc_range
    falling = mul < 0
    wanted = np.arange(1, codes.count)[None, :]
    sign = np.where(falling, -1, 1)[:, None]
    # Search over positions p >= 0 counted from the end at which the codes are smallest.
    start = np.where(falling, highest, lowest)[:, None].astype(np.int64)
    below = np.full((len(mul), codes.count - 1), -1, np.int64)
    reached = np.full_like(below, highest - lowest + 1)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        acc = start + sign * np.clip(middle, 0, highest - lowest)
        q = requantize(acc.T, mul, add, codes, zero, rounding).T
        met = codes.index(q) >= wanted
        open_ = reached - below > 1
        reached = np.where(open_ & met, middle, reached)
        below = np.where(open_ & ~met, middle, below)
    return (start + sign * reached).astype(np.int32), falling
