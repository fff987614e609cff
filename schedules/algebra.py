"""From codes to the integers that kernels multiply, and back to exact accumulators.

A kernel stores ``digits``, not codes: unsigned indices, or values, in whatever type its
instructions take. With activation values ``v_x = a * x + b`` and weight values ``v_w = c * w +
d[o]`` of digits x and w,

    acc = sum of v_x * v_w over the taps inside of the image
        = a * c * D + a * d[o] * S + b * (sum of v_w over these taps)

where ``D = sum x * w`` is what the kernel counts, ``S = sum x`` is shared by all output channels
(needed only where ``d`` is not 0), and the last term is static (needed only where ``b`` is not 0).

Padding is the real value 0. Where a code stands for it, padded taps hold its digit, ``v_x`` is 0
there, and they may count as taps: the static term is one number for each output channel. Where no
code stands for it (bipolar data), padded taps hold the digit 0, which adds nothing to D and S, and
the static term depends on which taps lie inside. Few different sets of rows and columns exist, so
it is a table [row classes, column classes, O] with one index for each output row and column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.spec import Codes


@dataclass(frozen=True)
class Digits:
    """How a kernel stores codes: ``digit = mult * index + base``.

    Attributes:
        codes: the range of the codes.
        mult: digits from one code to the next.
        base: digit of the lowest code.
        scale: value of one digit: ``value = scale * digit + offset``.
        offsets: the offset, one or one per output channel.
    """

    codes: Codes
    mult: int
    base: int
    scale: int
    offsets: tuple[int, ...]

    @property
    def lo(self) -> int:
        """The smallest digit."""
        return self.base

    @property
    def hi(self) -> int:
        """The largest digit."""
        return self.base + self.mult * (self.codes.count - 1)

    @property
    def identity(self) -> bool:
        """Whether digits are the codes."""
        return self.mult == self.codes.step and self.base == self.codes.lo

    def of(self, code: int) -> int:
        """Return the digit of one code."""
        return self.mult * ((code - self.codes.lo) // self.codes.step) + self.base


def index_digits(codes: Codes, zeros: tuple[int, ...], base: int = 0) -> Digits:
    """Store indices, counted from ``base``."""
    distinct = zeros if len(set(zeros)) > 1 else zeros[:1]
    offsets = tuple(codes.lo - zero - codes.step * base for zero in distinct)
    return Digits(codes, 1, base, codes.step, offsets)


def value_digits(codes: Codes, zero: int) -> Digits:
    """Store values ``code - zero``."""
    return Digits(codes, codes.step, codes.lo - zero, 1, (0,))


def fitting_digits(codes: Codes, zeros: tuple[int, ...], lo: int, hi: int) -> Digits | None:
    """Store values where they fit ``[lo, hi]``, else indices, or return None where none fit.

    Values of codes with a common zero point need no sum of activations.
    """
    if len(set(zeros)) == 1:
        values = value_digits(codes, zeros[0])
        if lo <= values.lo and values.hi <= hi:
            return values
    for base in (0, lo):
        indices = index_digits(codes, zeros, base)
        if lo <= indices.lo and indices.hi <= hi:
            return indices
    return None


def kept_digits(codes: Codes, zero: int, lo: int, hi: int) -> Digits | None:
    """Store codes as they are, which converts nothing, where they fit; else as fitting digits."""
    if codes.step == 1 and lo <= codes.lo and codes.hi <= hi:
        return index_digits(codes, (zero,), codes.lo)
    return fitting_digits(codes, (zero,), lo, hi)


@dataclass(frozen=True)
class Correction:
    """The terms of an accumulator: ``scale * D + slope[o] * S + static``.

    Attributes:
        scale: the factor of D.
        slope: int32 [O], the factors of S, or None where S is not needed.
        static: int32 [row classes, column classes, O], or None where it is 0.
        rows: int32 [OH], the row class of each output row.
        columns: int32 [OW], the column class of each output column.
        fill: digit of padded taps.
    """

    scale: int
    slope: NDArray[np.int32] | None
    static: NDArray[np.int32] | None
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    fill: int

    @property
    def common_slope(self) -> int | None:
        """The factor of S where all output channels share it, else None."""
        if self.slope is None or np.unique(self.slope).size > 1:
            return None
        return int(self.slope[0])

    @property
    def bordered(self) -> bool:
        """Whether the static term depends on the output position."""
        return self.static is not None and self.static.shape[:2] != (1, 1)


def border_classes(
    size: int, out: int, kernel: int, stride: int, pad: int, dilation: int
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Return the distinct sets of taps inside of the image along one axis.

    Returns:
        taps bool [classes, kernel], and the class of each output position, int32 [out].
    """
    position = np.arange(out)[:, None] * stride - pad + np.arange(kernel)[None, :] * dilation
    inside = (position >= 0) & (position < size)
    taps, index = np.unique(inside, axis=0, return_inverse=True)
    return taps, index.reshape(-1).astype(np.int32)


def correct(work: ConvWork, weights: NDArray[np.generic], x: Digits, w: Digits) -> Correction:
    """Work out the terms that turn sums of digit products into accumulators.

    Args:
        work: the convolution.
        weights: codes OHWI.
        x: digits of the activations (one offset).
        w: digits of the weights.
    """
    zeros = np.asarray(work.w_zero, np.int64).reshape(-1, 1, 1)
    # Sums of the values of each tap over the input channels: [O, KH, KW].
    taps = np.asarray(weights, np.int64).sum(axis=3) - zeros * work.weight_shape[3]
    ones = (np.ones((1, work.kernel[0]), bool), np.ones((1, work.kernel[1]), bool))
    rows = (ones[0], np.zeros(work.out_height, np.int32))
    columns = (ones[1], np.zeros(work.out_width, np.int32))
    if work.pad_code is None and any(work.padding):
        top, left, _, _ = work.padding
        rows = border_classes(
            work.height, work.out_height, work.kernel[0], work.strides[0], top, work.dilation[0]
        )
        columns = border_classes(
            work.width, work.out_width, work.kernel[1], work.strides[1], left, work.dilation[1]
        )
    static = None
    if x.offsets[0]:
        sums = np.einsum("ohw,rh,qw->rqo", taps, rows[0], columns[0], optimize=True)
        static = (x.offsets[0] * sums).astype(np.int32)
    slope = None
    if any(w.offsets):
        slope = np.broadcast_to(x.scale * np.asarray(w.offsets), (work.out_channels,))
        slope = slope.astype(np.int32)
    fill = 0 if work.pad_code is None else x.of(work.pad_code)
    return Correction(x.scale * w.scale, slope, static, rows[1], columns[1], fill)


def intermediate_bound(work: ConvWork, x: Digits, w: Digits) -> int:
    """Bound the magnitude of every partial result, static term included."""
    count = work.kernel[0] * work.kernel[1] * work.weight_shape[3]
    high_x = max(abs(x.lo), abs(x.hi))
    high_w = max(abs(w.lo), abs(w.hi))
    offset_w = max(abs(d) for d in w.offsets)
    value_w = w.scale * high_w + offset_w
    value_x = x.scale * high_x
    return count * (value_x * (w.scale * high_w + offset_w) + abs(x.offsets[0]) * value_w)
