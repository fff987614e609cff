"""Keep images in NHWC between integer operators.

``recognize`` wraps each operator in a pair of ``permute_dims``. Here a permutation back to NCHW is
held back as long as only elementwise operators follow, which then work on NHWC, and it meets its
inverse at the next operator. Only what needs NCHW (a reshape, the output) gets the permutation.

Matches elementwise operators with one image and constants, or several images, that are all held
back. Leaves alone everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, is_op, make, shape_of
from tvm_qnn.passes.facts import values_of
from tvm_qnn.passes.recognize import TO_NCHW, TO_NHWC
from tvm_qnn.passes.rewrite import Rewriter, name_of, rewrite

_UNARY = (
    "relax.nn.relu", "relax.clip", "relax.round", "relax.floor", "relax.ceil", "relax.sigmoid",
    "relax.tanh", "relax.exp", "relax.sqrt", "relax.abs", "relax.negative", "relax.nn.silu",
    "relax.nn.gelu", "relax.nn.leakyrelu", "relax.astype", "relax.sign",
    "qnn.quantize", "qnn.dequantize",
)  # fmt: skip
_BINARY = (
    "relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum",
    "relax.minimum",
)  # fmt: skip


def channels_last(mod: Any) -> Any:
    """Return the module with the permutations between integer operators removed."""
    held: dict[Any, Any] = {}

    def visit(rewriter: Rewriter, call: Any, name: str) -> Any:
        if is_op(call, "relax.permute_dims"):
            axes = [int(a) for a in call.attrs.axes or []]
            if axes == TO_NHWC and call.args[0] in held:
                return held[call.args[0]]
            if axes == TO_NCHW:
                result = rewriter.emit(call, name)
                held[result] = call.args[0]
                return result
            return None
        images = [a for a in call.args if a in held]
        if not images or not is_op(call, *_UNARY, *_BINARY):
            return None
        turned = _turned(rewriter, call, held)
        if turned is None:
            return None
        nhwc = rewriter.emit(turned, name)
        result = rewriter.emit(relax.op.permute_dims(nhwc, TO_NCHW), f"{name}_nchw")
        held[result] = nhwc
        return result

    return _reshape_pixels(rewrite(mod, visit))


def _turned(rewriter: Rewriter, call: Any, held: dict[Any, Any]) -> Any:
    """Return an elementwise call on the NHWC counterparts of its arguments, or None."""
    args = []
    image = shape_of(call)
    for position, arg in enumerate(call.args):
        if arg in held:
            args.append(held[arg])
        elif is_op(call, *_UNARY) and position > 0:
            args.append(arg)
        else:
            values = values_of(rewriter, arg)
            if values is None:
                if shape_of(arg) != image:
                    return None
                args.append(_permuted(rewriter, arg))
                continue
            if values.ndim > 1:
                full = values.reshape((1,) * (4 - values.ndim) + values.shape)
                values = np.ascontiguousarray(full.transpose(TO_NHWC))
            elif values.size > 1:
                values = values.reshape(1, 1, values.size, 1)
            args.append(relax.const(values, str(values.dtype)))
    if call.op.name.startswith("qnn."):
        attrs = attrs_of(call)
        if attrs["axis"] is not None:
            attrs["axis"] = TO_NHWC.index(attrs["axis"] % 4)
        return make(call.op.name, args, **attrs)
    return relax.Call(call.op, args, call.attrs, call.ty_args)


def _permuted(rewriter: Rewriter, image: Any) -> Any:
    """Permute an image that was not held back to NHWC: its codes, if it has codes."""
    name = name_of(image)
    call = rewriter.defined_by(image, "qnn.dequantize")
    if call is None or attrs_of(call)["axis"] is not None:
        return rewriter.emit(relax.op.permute_dims(image, TO_NHWC), f"{name}_nhwc")
    codes = rewriter.emit(relax.op.permute_dims(call.args[0], TO_NHWC), f"{name}_codes_nhwc")
    parts = [codes, *call.args[1:]]
    return rewriter.emit(make("qnn.dequantize", parts, **attrs_of(call)), f"{name}_nhwc")


def _reshape_pixels(mod: Any) -> Any:
    """Replace the permutation of a 1x1 image by a reshape, which moves nothing."""

    def visit(rewriter: Rewriter, call: Any, name: str) -> Any:
        if is_op(call, "relax.permute_dims"):
            shape, axes = shape_of(call.args[0]), [int(a) for a in call.attrs.axes or []]
            spatial = {tuple(TO_NHWC): shape[2:], tuple(TO_NCHW): shape[1:3]}.get(tuple(axes))
            if spatial == [1, 1]:
                return relax.op.reshape(call.args[0], [shape[a] for a in axes])
        if is_op(call, "relax.reshape"):
            inner = rewriter.defined_by(call.args[0], "relax.reshape")
            if inner is not None:
                return relax.op.reshape(inner.args[0], shape_of(call))
        return None

    return rewrite(mod, visit)
