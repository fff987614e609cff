"""Lower ``qnn.codebook_conv2d``: an indicator convolution, then one float combination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of, shape_of
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.passes.rewrite import Rewriter, constant
from tvm_qnn.passes.select_kernels import ranked
from tvm_qnn.schedules.codebook import combine, indicators
from tvm_qnn.schedules.epilogue import output_type
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target

if TYPE_CHECKING:
    from tvm_qnn.passes.lower import Prepared


def codebook_work(call: Any) -> ConvWork:
    """Return the indicator convolution of a ``qnn.codebook_conv2d``: M x O output channels."""
    attrs = attrs_of(call)
    x, w, table = (shape_of(a) for a in call.args)
    return ConvWork(
        x[0], x[1], x[2], x[3], w[0] * table[1], (w[1], w[2]),
        x=codes_of(attrs, "x_"),
        w=Codes(0, 1),
        strides=tuple(attrs["strides"]),
        padding=tuple(attrs["padding"]),
        dilation=tuple(attrs["dilation"]),
        groups=attrs["groups"],
        x_zero=attrs["x_zero"],
    )  # fmt: skip


def lower_codebook(
    rewriter: Rewriter, call: Any, name: str, target: Target, prepared: Prepared
) -> Any:
    """Return the lowered call; the weights are registered in ``prepared``."""
    work = codebook_work(call)
    index, table = constant(call.args[1]), constant(call.args[2])
    assert index is not None
    assert table is not None
    values = table.shape[1]
    ones = np.concatenate([(index == m) for m in range(values)]).astype(np.uint8)
    family, _ = ranked(name, work, target)[0]
    kernel = family.build(work, target, ones)
    codes = Codes(0, values - 1)
    expand = indicators(index.size, values, codes.bits)
    variable = prepared.add(name, kernel, work, index, codes, expand)
    sums = relax.call_tir(
        rewriter.function(kernel.func, kernel.name),
        [call.args[0], variable, *[build.const(c, "int32") for c in kernel.constants]],
        relax.TensorType(*output_type(work)),
    )
    out = tuple(shape_of(call))
    function = rewriter.function(combine(out, values, table.shape[0]), "qnn_codebook_combine")
    return relax.call_tir(function, [rewriter.emit(sums, f"{name}_sums"), call.args[2]], call.ty)
