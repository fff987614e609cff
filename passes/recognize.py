"""Float operators on proven quantized values become ``qnn.*`` operators on codes.

Matches ``nn.conv2d`` (NCHW, OIHW) and ``matmul`` with quantized activations and constant weights
that are quantized or lie on a grid, ``nn.max_pool2d`` of quantized activations or of codes,
``nn.avg_pool2d`` and ``mean`` over the image of quantized activations. Results stay float by
``qnn.affine``, which the epilogues fold away later. Whatever is left alone is named in the
refusals, with the reason and what would help.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.ops import build, code_attrs, is_op, make, shape_of
from tvm_qnn.passes.facts import Quantized, grid_of, narrowed, quantized
from tvm_qnn.passes.rewrite import Rewriter, constant, rewrite
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.spec import Codes, QType

TO_NHWC = [0, 2, 3, 1]
TO_NCHW = [0, 3, 1, 2]
_HEAVY = {
    "relax.nn.conv2d": "convolution",
    "relax.matmul": "matrix product",
    "relax.nn.conv1d": "1-D convolution",
    "relax.nn.conv3d": "3-D convolution",
    "relax.nn.conv2d_transpose": "transposed convolution",
    "relax.nn.attention": "attention",
}


def recognize(mod: Any, refusals: list[Refusal]) -> Any:
    """Return the module with integer operators; append to ``refusals`` what stays float and why."""

    def visit(rewriter: Rewriter, call: Any, name: str) -> Any:
        try:
            if is_op(call, "relax.nn.conv2d"):
                return _conv2d(rewriter, call, name)
            if is_op(call, "relax.matmul"):
                return _matmul(rewriter, call, name)
            if is_op(call, "relax.nn.max_pool2d"):
                return _max_pool2d(rewriter, call, name)
            if is_op(call, "relax.nn.avg_pool2d"):
                return _avg_pool2d(rewriter, call, name)
            if is_op(call, "relax.nn.adaptive_avg_pool2d"):
                return _adaptive(rewriter, call, name)
            if is_op(call, "relax.mean"):
                return _mean(rewriter, call, name)
            if is_op(call, *_HEAVY):
                raise _RefusedError(f"{_HEAVY[call.op.name]} has no integer form here", "")
        except _RefusedError as refused:
            refusals.append(Refusal(name, refused.reason, refused.remedy))
        return None

    return rewrite(mod, visit)


class _RefusedError(Exception):
    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy


def _activation(rewriter: Rewriter, expr: Any) -> Quantized:
    """Return the codes of an activation with one scale and zero point for the tensor."""
    proof = quantized(rewriter, expr)
    if proof is None:
        raise _RefusedError(
            "its input is not quantized",
            "put a quantizer (QuantizeLinear/DequantizeLinear, or clip and round) before it",
        )
    qtype = proof.qtype
    if qtype.codebook is not None:
        raise _RefusedError(
            "its input comes from a codebook",
            "use uniform activations; M-ary codebooks are for weights",
        )
    if qtype.per_axis:
        raise _RefusedError("its input is quantized per channel", "quantize activations per tensor")
    if qtype.codes.count > 256:
        raise _RefusedError(
            f"its input has {qtype.bits} bits", "use at most 8 bits for activations"
        )
    return proof


def _weights(rewriter: Rewriter, expr: Any) -> tuple[NDArray[Any], QType]:
    """Return weight codes and their type, with the smallest range that holds them."""
    codes, qtype = _weight_codes(rewriter, expr)
    if qtype.codebook is None:
        kind = narrowed(codes, qtype.codes)
        qtype = QType(kind, qtype.scale, qtype.zero, qtype.axis)
    if qtype.codes.count > 256:
        raise _RefusedError(f"its weights have {qtype.bits} bits", "use at most 8 bits for weights")
    return codes.astype(qtype.codes.dtype), qtype


def _weight_codes(rewriter: Rewriter, expr: Any) -> tuple[NDArray[Any], QType]:
    transpose = rewriter.defined_by(expr, "relax.permute_dims")
    if transpose is not None:
        codes, qtype = _weight_codes(rewriter, transpose.args[0])
        order = [int(a) for a in transpose.attrs.axes or reversed(range(codes.ndim))]
        axis = None if qtype.axis is None else order.index(qtype.axis)
        turned = QType(qtype.codes, qtype.scale, qtype.zero, axis, qtype.codebook)
        return codes.transpose(order), turned
    proof = quantized(rewriter, expr)
    values = constant(proof.codes if proof is not None else expr)
    if values is None:
        raise _RefusedError(
            "its weights are not constant", "export the model with constant weights"
        )
    if proof is not None:
        return values.astype(np.int64), proof.qtype
    found = grid_of(values.astype(np.float32))
    if found is None:
        raise _RefusedError(
            "its weights are not quantized (they lie on no grid of at most 8 bits)",
            "quantize them: DequantizeLinear, a codebook, or whole multiples of a scale",
        )
    return found.quantize(values).astype(np.int64), found


def _scales(x: QType, w: QType) -> NDArray[np.float64]:
    return np.asarray(w.scale, np.float64) * x.scale[0]


def _conv2d(rewriter: Rewriter, call: Any, name: str) -> Any:
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        raise _RefusedError(
            f"layout {attrs.data_layout}, {attrs.kernel_layout}", "use NCHW and OIHW"
        )
    x = _activation(rewriter, call.args[0])
    codes, w = _weights(rewriter, call.args[1])
    if w.axis not in (None, 0):
        raise _RefusedError(f"its weights are quantized along axis {w.axis}", "use axis 0")
    ohwi = build.const(codes.transpose(0, 2, 3, 1), w.codes.dtype)
    nhwc = rewriter.emit(relax.op.permute_dims(x.codes, TO_NHWC), f"{name}_nhwc")
    geometry: dict[str, Any] = {
        "strides": [int(v) for v in attrs.strides],
        "padding": tuple(int(v) for v in attrs.padding),
        "dilation": [int(v) for v in attrs.dilation],
        "groups": int(attrs.groups),
    }
    if w.codebook is not None:
        acc = _codebook_conv2d(nhwc, ohwi, x.qtype, w, geometry)
        y = build.affine(rewriter.emit(acc, f"{name}_sum"), x.qtype.scale, [0.0])
    else:
        acc = build.conv2d(
            nhwc, ohwi, x_codes=x.qtype.codes, x_zero=x.qtype.zero[0],
            w_codes=w.codes, w_zero=w.zero, **geometry,
        )  # fmt: skip
        acc = _emit(rewriter, acc, f"{name}_acc")
        y = build.affine(acc, _scales(x.qtype, w), [0.0])
    y = rewriter.emit(y, f"{name}_real")
    return relax.op.permute_dims(y, TO_NCHW)


def _codebook_conv2d(nhwc: Any, ohwi: Any, x: QType, w: QType, geometry: dict[str, Any]) -> Any:
    if w.codebook is None or (len(w.codebook) > 1 and w.axis != 0):
        raise _RefusedError("its codebook varies along an inner axis", "use axis 0")
    table = np.asarray(w.codebook, np.float32)
    return make(
        "qnn.codebook_conv2d",
        [nhwc, ohwi, build.const(table, "float32")],
        **code_attrs(x.codes, "x_"),
        x_zero=x.zero[0],
        **{**geometry, "padding": list(geometry["padding"])},
    )


def _matmul(rewriter: Rewriter, call: Any, name: str) -> Any:
    if len(shape_of(call.args[1])) != 2 or len(shape_of(call.args[0])) < 2:
        raise _RefusedError(
            "a product of two activations or of vectors", "weights [K, O] are needed"
        )
    x = _activation(rewriter, call.args[0])
    codes, w = _weights(rewriter, call.args[1])
    if w.axis not in (None, 1):
        raise _RefusedError(f"its weights are quantized along axis {w.axis}", "use the output axis")
    rows = np.ascontiguousarray(codes.T)
    if w.codebook is not None:
        shape = shape_of(x.codes)
        image = rewriter.emit(
            relax.op.reshape(x.codes, [1, 1, int(np.prod(shape[:-1])), shape[-1]]), f"{name}_rows"
        )
        ohwi = build.const(rows[:, None, None, :], w.codes.dtype)
        per_row = QType(w.codes, axis=None if w.axis is None else 0, codebook=w.codebook)
        geometry = {"strides": [1, 1], "padding": (0,) * 4, "dilation": [1, 1], "groups": 1}
        total = _codebook_conv2d(image, ohwi, x.qtype, per_row, geometry)
        y = build.affine(rewriter.emit(total, f"{name}_sum"), x.qtype.scale, [0.0])
        return relax.op.reshape(rewriter.emit(y, f"{name}_real"), shape_of(call))
    acc = build.dense(
        x.codes, build.const(rows, w.codes.dtype), x_codes=x.qtype.codes,
        x_zero=x.qtype.zero[0], w_codes=w.codes, w_zero=w.zero,
    )  # fmt: skip
    acc = _emit(rewriter, acc, f"{name}_acc")
    return build.affine(acc, _scales(x.qtype, w), [0.0])


def _emit(rewriter: Rewriter, call: Any, name: str) -> Any:
    """Bind a call; what type inference refuses (sums beyond int32, say) stays float."""
    try:
        return rewriter.emit(call, name)
    except TypeError as error:
        raise _RefusedError(str(error).rsplit(": ", 1)[-1].strip(), "use fewer bits") from None


def _nhwc(rewriter: Rewriter, codes: Any, name: str) -> Any:
    return rewriter.emit(relax.op.permute_dims(codes, TO_NHWC), f"{name}_nhwc")


def _max_pool2d(rewriter: Rewriter, call: Any, name: str) -> Any:
    attrs = call.attrs
    dtype = str(call.args[0].ty.dtype)
    if dtype in ("uint8", "int8"):
        # Codes that are pooled as they are, between a quantizer and its counterpart.
        limits = np.iinfo(dtype)
        x = Quantized(call.args[0], QType(Codes(int(limits.min), int(limits.max))))
    else:
        x = _activation(rewriter, call.args[0])
    if attrs.ceil_mode or str(attrs.layout) != "NCHW":
        raise _RefusedError("maximum pooling with ceil mode", "use floor mode with padding")
    pooled = build.max_pool2d(
        _nhwc(rewriter, x.codes, name),
        [int(v) for v in attrs.pool_size],
        codes=x.qtype.codes,
        strides=[int(v) for v in attrs.strides],
        padding=tuple(int(v) for v in attrs.padding),  # type: ignore[arg-type]
        dilation=[int(v) for v in attrs.dilation],
    )
    pooled = rewriter.emit(pooled, f"{name}_pooled")
    codes = relax.op.permute_dims(pooled, TO_NCHW)
    if dtype in ("uint8", "int8"):
        return codes
    return build.dequantize(rewriter.emit(codes, f"{name}_codes"), x.qtype)


def _average(
    rewriter: Rewriter, x: Quantized, kernel: list[int], strides: list[int],
    padding: tuple[int, ...], name: str,
) -> Any:  # fmt: skip
    total = build.sum_pool2d(
        _nhwc(rewriter, x.codes, name),
        kernel,
        codes=x.qtype.codes,
        zero=x.qtype.zero[0],
        strides=strides,
        padding=padding,  # type: ignore[arg-type]
    )
    total = rewriter.emit(total, f"{name}_acc")
    mean = build.affine(total, [x.qtype.scale[0] / (kernel[0] * kernel[1])], [0.0])
    return relax.op.permute_dims(rewriter.emit(mean, f"{name}_real"), TO_NCHW)


def _avg_pool2d(rewriter: Rewriter, call: Any, name: str) -> Any:
    attrs = call.attrs
    x = _activation(rewriter, call.args[0])
    if any(int(v) != 1 for v in attrs.dilation):
        raise _RefusedError("average pooling with dilation", "use dilation 1")
    padding = tuple(int(v) for v in attrs.padding)
    if (
        attrs.ceil_mode
        or str(attrs.layout) != "NCHW"
        or (any(padding) and not bool(attrs.count_include_pad))
    ):
        raise _RefusedError(
            "average pooling that does not count its padding, or with ceil mode",
            "use count_include_pad, or no padding",
        )
    kernel = [int(v) for v in attrs.pool_size]
    return _average(rewriter, x, kernel, [int(v) for v in attrs.strides], padding, name)


def _adaptive(rewriter: Rewriter, call: Any, name: str) -> Any:
    x = _activation(rewriter, call.args[0])
    if [int(v) for v in call.attrs.output_size or []] != [1, 1]:
        raise _RefusedError("adaptive pooling to more than one pixel", "pool to 1x1")
    _, _, height, width = shape_of(call.args[0])
    return _average(rewriter, x, [height, width], [1, 1], (0,) * 4, name)


def _mean(rewriter: Rewriter, call: Any, name: str) -> Any:
    shape = shape_of(call.args[0])
    axes = sorted(int(a) % len(shape) for a in call.attrs.axis or range(len(shape)))
    x = _activation(rewriter, call.args[0])
    if len(shape) != 4 or axes != [2, 3]:
        raise _RefusedError(
            f"mean over axes {axes}", "only the mean over the image has an integer form"
        )
    y = _average(rewriter, x, shape[2:], [1, 1], (0,) * 4, name)
    if bool(call.attrs.keepdims):
        return y
    return relax.op.reshape(rewriter.emit(y, f"{name}_kept"), shape[:2])
