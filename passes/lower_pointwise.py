"""Lower the ``qnn.*`` operators that are not convolutions, one PrimFunc each."""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.passes.rewrite import Rewriter
from tvm_qnn.schedules import pointwise
from tvm_qnn.targets.record import Target


def lower_pointwise(rewriter: Rewriter, call: Any, target: Target) -> Any:
    """Return the ``call_tir`` of a conversion, addition, pooling or packing, or None."""
    func = _function(call)
    if func is None:
        return None
    function = rewriter.function(pointwise.scheduled(func, target), call.op.name.replace(".", "_"))
    return relax.call_tir(function, list(call.args), call.ty)


def _function(call: Any) -> Any:
    if not call.args or not is_op(call, *_BUILDERS):
        return None
    return _BUILDERS[call.op.name](call, attrs_of(call), shape_of(call.args[0]))


def _sizes(call: Any) -> list[list[int]]:
    return [shape_of(a) for a in call.args[1:]]


_BUILDERS: dict[str, Any] = {
    "qnn.quantize": lambda call, a, shape: pointwise.quantize(
        shape, _sizes(call), codes_of(a), a["axis"], a["rounding"]
    ),
    "qnn.dequantize": lambda call, a, shape: pointwise.dequantize(
        shape, _sizes(call), codes_of(a), a["axis"]
    ),
    "qnn.lookup": lambda call, a, shape: pointwise.lookup(
        shape, _sizes(call)[0], codes_of(a), a["axis"]
    ),
    "qnn.affine": lambda call, a, shape: pointwise.affine(
        shape, str(call.args[0].ty.dtype), _sizes(call)
    ),
    "qnn.requantize": lambda call, a, shape: pointwise.requantize(
        shape, str(call.args[0].ty.dtype), _sizes(call), codes_of(a), a["zero"], a["rounding"]
    ),
    "qnn.threshold": lambda call, a, shape: pointwise.threshold(shape, codes_of(a)),
    "qnn.add": lambda call, a, shape: pointwise.add(
        shape,
        (str(call.args[0].ty.dtype), str(call.args[1].ty.dtype)),
        (a["a_mul"], a["b_mul"], a["offset"]),
        codes_of(a),
        a["zero"],
        a["rounding"],
    ),
    "qnn.max_pool2d": lambda call, a, shape: pointwise.pool2d(
        shape, codes_of(a), a["kernel"], a["strides"], a["padding"], a["dilation"], None
    ),
    "qnn.sum_pool2d": lambda call, a, shape: pointwise.pool2d(
        shape, codes_of(a), a["kernel"], a["strides"], a["padding"], a["dilation"], a["zero"]
    ),
    "qnn.pack": lambda call, a, shape: pointwise.pack(shape, codes_of(a)),
}
