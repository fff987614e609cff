"""The records that kernels are chosen and built from, read off the module."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.passes.rewrite import Rewriter
from tvm_qnn.spec import Codes

CONVOLUTIONS = ("qnn.conv2d", "qnn.dense")
CODEBOOK = "qnn.codebook_conv2d"
KERNELS = (*CONVOLUTIONS, CODEBOOK)
"""Operators whose kernel is chosen among families."""


def work_of(call: Any) -> ConvWork:
    """Return the work of a ``qnn.conv2d`` or ``qnn.dense`` call, without its epilogue."""
    attrs = attrs_of(call)
    x = shape_of(call.args[0])
    planes = attrs["x_layout"] == "planes"
    if planes:
        x = [*x[:-2], attrs["channels"]]
    w = shape_of(call.args[1])
    common = {
        "x": codes_of(attrs, "x_"),
        "w": codes_of(attrs, "w_"),
        "x_zero": attrs["x_zero"],
        "w_zero": tuple(attrs["w_zero"]),
        "x_planes": planes,
    }
    if is_op(call, "qnn.dense"):
        return ConvWork(1, 1, int(np.prod(x[:-1])), x[-1], w[0], (1, 1), **common)
    return ConvWork(
        x[0], x[1], x[2], x[3], w[0], (w[1], w[2]),
        strides=tuple(attrs["strides"]),
        padding=tuple(attrs["padding"]),
        dilation=tuple(attrs["dilation"]),
        groups=attrs["groups"],
        **common,
    )  # fmt: skip


def codebook_work_of(call: Any) -> CodebookWork:
    """Return the work of a ``qnn.codebook_conv2d`` call, without its epilogue."""
    attrs = attrs_of(call)
    x, w, table = (shape_of(a) for a in call.args)
    conv = ConvWork(
        x[0], x[1], x[2], x[3], w[0], (w[1], w[2]),
        x=codes_of(attrs, "x_"),
        w=Codes(0, table[1] - 1),
        strides=tuple(attrs["strides"]),
        padding=tuple(attrs["padding"]),
        dilation=tuple(attrs["dilation"]),
        groups=attrs["groups"],
        x_zero=attrs["x_zero"],
    )  # fmt: skip
    return CodebookWork(conv, table[0])


def accumulator_range(rewriter: Rewriter, expr: Any) -> tuple[int, int] | None:
    """Return the proven range of int32 accumulators, or None where they come from elsewhere."""
    call = rewriter.definition(expr)
    if is_op(call, *CONVOLUTIONS):
        return work_of(call).acc_range
    if is_op(call, "qnn.sum_pool2d"):
        attrs = attrs_of(call)
        codes, count = codes_of(attrs), int(np.prod(attrs["kernel"]))
        ends = (codes.lo - attrs["zero"], codes.hi - attrs["zero"], 0)
        return count * min(ends), count * max(ends)
    return None
