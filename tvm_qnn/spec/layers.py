"""Definitions of the integer layers. Activations are NHWC, weights OHWI, all sums int64.

Codes enter with their zero points; what is summed is ``(x - x_zero) * (w - w_zero)``. Padding is
with the real value 0, which is ``x - x_zero == 0`` whatever the codes are: padded taps add nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_qnn.spec.convert import affine, round_to_int, saturate
from tvm_qnn.spec.qtype import Codes

Pads = tuple[int, int, int, int]


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Return the output extent of a sliding window along one axis (``pad`` of both ends)."""
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def windows(
    x: NDArray[np.generic],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: Pads,
    dilation: tuple[int, int],
    fill: int,
) -> NDArray[np.generic]:
    """Cut sliding windows, NHWC -> [N, OH, OW, KH, KW, C]; see :func:`conv2d` for the arguments."""
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    out_h = output_size(x.shape[1], kernel[0], strides[0], 0, dilation[0])
    out_w = output_size(x.shape[2], kernel[1], strides[1], 0, dilation[1])
    rows = np.arange(out_h)[:, None] * strides[0] + np.arange(kernel[0])[None, :] * dilation[0]
    cols = np.arange(out_w)[:, None] * strides[1] + np.arange(kernel[1])[None, :] * dilation[1]
    return x[:, rows[:, None, :, None], cols[None, :, None, :], :]


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    *,
    x_zero: int = 0,
    w_zero: ArrayLike = 0,
    strides: tuple[int, int] = (1, 1),
    padding: Pads = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> NDArray[np.int32]:
    """Integer convolution (ONNX ConvInteger, in NHWC); depthwise is ``groups == C``.

    Args:
        x: codes [N, H, W, C].
        w: codes [O, KH, KW, C / groups].
        x_zero: zero point of ``x``.
        w_zero: zero point of ``w``, one or [O].
        strides: (down, right).
        padding: (top, left, bottom, right), with the real value 0.
        dilation: (down, right).
        groups: number of channel groups; divides C and O.

    Returns:
        int32 accumulators [N, OH, OW, O].
    """
    x = np.asarray(x, np.int64) - x_zero
    w = np.asarray(w, np.int64)
    w = w - np.asarray(w_zero, np.int64).reshape(-1, 1, 1, 1)
    out, kernel = w.shape[0], w.shape[1:3]
    n, c = x.shape[0], x.shape[3]
    cut = windows(x, (kernel[0], kernel[1]), strides, padding, dilation, 0)
    cut = cut.reshape(*cut.shape[:5], groups, c // groups)
    w = w.reshape(groups, out // groups, *kernel, c // groups)
    # float64 sums integers below 2**53 exactly, and numpy has a fast product for it.
    if int(np.abs(cut).max(initial=0)) * int(np.abs(w).max(initial=0)) * w[0, 0].size < 2**53:
        cut, w = cut.astype(np.float64), w.astype(np.float64)
    rows = cut.shape[1] * cut.shape[2]
    per_group = []
    for g in range(groups):
        a = cut[:, :, :, :, :, g].reshape(n * rows, -1)
        per_group.append(a @ w[g].reshape(out // groups, -1).T)
    acc = np.concatenate(per_group, axis=1).astype(np.int64)
    return checked_int32(acc.reshape(n, cut.shape[1], cut.shape[2], out))


def dense(
    x: ArrayLike, w: ArrayLike, *, x_zero: int = 0, w_zero: ArrayLike = 0
) -> NDArray[np.int32]:
    """Integer matrix product (ONNX MatMulInteger with the weights transposed).

    Args:
        x: codes [..., K].
        w: codes [O, K].
        x_zero: zero point of ``x``.
        w_zero: zero point of ``w``, one or [O].

    Returns:
        int32 accumulators [..., O].
    """
    x = np.asarray(x, np.int64) - x_zero
    w = np.asarray(w, np.int64) - np.asarray(w_zero, np.int64).reshape(-1, 1)
    return checked_int32(x @ w.T)


def codebook_conv2d(
    x: ArrayLike,
    w: ArrayLike,
    codebook: ArrayLike,
    *,
    x_zero: int = 0,
    strides: tuple[int, int] = (1, 1),
    padding: Pads = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> NDArray[np.float32]:
    """Convolution with M-ary weights: exact integer sums, then one float sum.

    ``S_m = sum of (x - x_zero) over the taps whose weight has code m``, and the result is
    ``((S_0 * r_0 + S_1 * r_1) + S_2 * r_2) + ...`` in float32, every product and sum rounded.

    The sums are integers, so a kernel needs only M - 1 of them: with the sum S over all taps, which
    all output channels share, ``S_k = S - sum of the others`` is exact for any one k. The form
    ``r_k * S + sum of (r_m - r_k) * S_m`` would do the same in real numbers, but it rounds the
    differences of the values, cancels where S is large, and ties the result to the choice of k;
    here no choice of a kernel shows. A value of 0 adds 0, and its sum may be left out.

    What follows is :func:`affine` or :func:`requantize` of this float32, in the same kernel.

    Args:
        x: codes [N, H, W, C].
        w: codebook indices [O, KH, KW, C / groups].
        codebook: float32 [M] or [O, M].
        x_zero: zero point of ``x``.
        strides: as in :func:`conv2d`.
        padding: as in :func:`conv2d`.
        dilation: as in :func:`conv2d`.
        groups: as in :func:`conv2d`.

    Returns:
        float32 [N, OH, OW, O].
    """
    table = np.atleast_2d(np.asarray(codebook, np.float32))
    w = np.asarray(w)
    total: NDArray[np.float32] | None = None
    for m in range(table.shape[1]):
        sums = conv2d(
            x, (w == m).astype(np.int64), x_zero=x_zero, strides=strides, padding=padding,
            dilation=dilation, groups=groups,
        )  # fmt: skip
        part = sums.astype(np.float32) * table[:, m]
        total = part if total is None else total + part
    assert total is not None
    return total


def add(
    a: ArrayLike,
    b: ArrayLike,
    *,
    a_mul: float,
    b_mul: float,
    offset: float,
    codes: Codes,
    zero: int = 0,
    rounding: str = "half_even",
) -> NDArray[np.generic]:
    """Residual addition of two quantized tensors, requantized.

    ``clip(round((float32(a) * a_mul + offset) + float32(b) * b_mul) + zero, lo, hi)``: scales of
    the inputs over the scale of the result are the factors, the zero points are in ``offset``.
    """
    total = affine(a, a_mul, offset) + np.asarray(b, np.int64).astype(np.float32) * np.float32(
        b_mul
    )
    return saturate(round_to_int(total, rounding) + zero, codes)


def max_pool2d(
    x: ArrayLike,
    kernel: tuple[int, int],
    *,
    lowest: int,
    strides: tuple[int, int] = (1, 1),
    padding: Pads = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> NDArray[np.generic]:
    """Maximum of codes [N, H, W, C] over windows; padding counts as ``lowest`` (ONNX MaxPool)."""
    x = np.asarray(x)
    cut = windows(x, kernel, strides, padding, dilation, lowest)
    largest: NDArray[np.generic] = cut.max(axis=(3, 4))
    return largest


def sum_pool2d(
    x: ArrayLike,
    kernel: tuple[int, int],
    *,
    x_zero: int = 0,
    strides: tuple[int, int] = (1, 1),
    padding: Pads = (0, 0, 0, 0),
) -> NDArray[np.int32]:
    """Sum of ``x - x_zero`` over windows of codes [N, H, W, C]; padding adds nothing.

    Average pooling is this sum with ``1 / (KH * KW)`` in the factor of the requantization.
    """
    x = np.asarray(x, np.int64) - x_zero
    return checked_int32(windows(x, kernel, strides, padding, (1, 1), 0).sum(axis=(3, 4)))


def checked_int32(acc: NDArray[np.int64]) -> NDArray[np.int32]:
    """Store accumulators as int32.

    Raises:
        OverflowError: if one does not fit, which the compiler excludes by the ranges of the codes.
    """
    if acc.size and (acc.max() > 2**31 - 1 or acc.min() < -(2**31)):
        raise OverflowError("an accumulator does not fit int32")
    return acc.astype(np.int32)
