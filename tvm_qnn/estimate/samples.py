"""Random arguments of a kernel and the result that the definition gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn import spec
from tvm_qnn.ops.workload import CodebookWork, ConvWork


@dataclass(frozen=True)
class Inputs:
    """Arguments of a kernel and what it must compute.

    Attributes:
        x: codes [N, H, W, C], or bit planes where the work says so.
        weights: codes OHWI.
        stream: the weights as ``prepare`` gets them (:func:`spec.pack_stream`).
        parameters: the codebook [M, rows] where there is one, and those of the epilogue.
        expected: the result by ``spec``.
    """

    x: NDArray[Any]
    weights: NDArray[Any]
    stream: NDArray[np.uint8]
    parameters: tuple[NDArray[Any], ...]
    expected: NDArray[Any]


def random_inputs(work: ConvWork, seed: int = 0) -> Inputs:
    """Draw arguments for ``work``; scales are such that results fill the range of the codes."""
    rng = np.random.default_rng(seed)
    shape = (work.batch, work.height, work.width, work.in_channels)
    x = _codes(rng, work.x, shape)
    w = _codes(rng, work.w, work.weight_shape)
    acc = spec.conv2d(
        x, w, x_zero=work.x_zero, w_zero=np.asarray(work.w_zero), strides=work.strides,
        padding=work.padding, dilation=work.dilation, groups=work.groups,
    )  # fmt: skip
    parameters, expected = _epilogue(rng, work, acc)
    return Inputs(
        x=spec.pack_planes(x, work.x) if work.x_planes else x,
        weights=w,
        stream=spec.pack_stream(w, work.w),
        parameters=parameters,
        expected=expected,
    )


def random_codebook(
    work: CodebookWork, seed: int = 0, zero: int | None = None, *, uniform: bool = False
) -> Inputs:
    """Draw arguments for ``work``: asymmetric values, and code 0 twice as often as the others.

    Args:
        work: the convolution.
        seed: of the random numbers.
        zero: the code whose value is 0, if any.
        uniform: draw all codes equally often.
    """
    rng = np.random.default_rng(seed)
    conv = work.conv
    x = _codes(rng, conv.x, (conv.batch, conv.height, conv.width, conv.in_channels))
    lowest = 0 if uniform else -1
    index = np.maximum(rng.integers(lowest, work.values, conv.weight_shape), 0).astype(np.uint8)
    table = (rng.standard_normal((work.rows, work.values)) + 0.3).astype(np.float32)
    if zero is not None:
        table[:, zero] = 0
    sums = spec.codebook_conv2d(
        x, index, table, x_zero=conv.x_zero, strides=conv.strides, padding=conv.padding,
        dilation=conv.dilation, groups=conv.groups,
    )  # fmt: skip
    parameters, expected = _epilogue(rng, conv, sums)
    return Inputs(
        x=x,
        weights=index,
        stream=spec.pack_stream(index, conv.w),
        parameters=(np.ascontiguousarray(table.T), *parameters),
        expected=expected,
    )


def _codes(rng: np.random.Generator, codes: spec.Codes, shape: tuple[int, ...]) -> NDArray[Any]:
    index = rng.integers(0, codes.count, shape)
    return codes.from_index(index).astype(codes.dtype)


def _epilogue(
    rng: np.random.Generator, work: ConvWork, acc: NDArray[Any]
) -> tuple[tuple[NDArray[Any], ...], NDArray[Any]]:
    """Return parameters of the epilogue of ``work`` and the result for ``acc``."""
    epilogue, channels = work.epilogue, work.out_channels
    if epilogue.kind == "none":
        return (), acc
    levels = epilogue.codes.count if epilogue.codes else 16
    spread = float(acc.std()) + 1.0
    # One channel in four falls: a batch norm may have a negative factor.
    sign = np.where(rng.integers(0, 4, channels) == 0, -1.0, 1.0)
    mul = (sign * levels / (4 * spread) * rng.uniform(0.5, 1.5, channels)).astype(np.float32)
    add = (rng.uniform(0, levels, channels) - mul * acc.mean()).astype(np.float32)
    if epilogue.kind == "affine":
        return (mul, add), spec.affine(acc, mul, add)
    assert epilogue.codes is not None
    if epilogue.kind == "requantize":
        out = spec.requantize(acc, mul, add, epilogue.codes, epilogue.zero, epilogue.rounding)
        parameters: tuple[NDArray[Any], ...] = (mul, add)
    else:
        low, high = work.acc_range
        limits, falling = spec.thresholds_of(
            mul, add, epilogue.codes, (low, high), epilogue.zero, epilogue.rounding
        )
        out = spec.threshold(acc, limits, falling, epilogue.codes)
        parameters = (np.ascontiguousarray(limits.T), falling.astype(np.int32))
    return parameters, spec.pack_planes(out, epilogue.codes) if epilogue.pack else out
