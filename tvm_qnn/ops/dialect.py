"""The ``qnn.*`` Relax operators: what each takes, and what type inference refuses.

Every operator names its definition in :mod:`tvm_qnn.spec`. Spatial tensors are NHWC, weights OHWI.
Attributes are integers, strings, floats or lists of them; codes are written as ``lo, hi, step``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.spec import ROUNDINGS, Codes, output_size

Attrs = dict[str, Any]
Infer = Callable[[Any, Attrs], Any]


def make(name: str, args: Sequence[Any], **attrs: Any) -> Any:
    """Return a Relax call of operator ``name``; type inference runs when it is emitted."""
    return relax.Call(
        tvm.ir.Op.get(name), list(args), attrs=tvm.ir.make_node("ir.DictAttrs", **attrs)
    )


def attrs_of(call: Any) -> Attrs:
    """Return the attributes of a call as plain Python values."""
    return {k: _plain(v) for k, v in dict(call.attrs).items()} if call.attrs else {}


def is_op(expr: Any, *names: str) -> bool:
    """Tell whether ``expr`` is a call of one of the operators ``names`` (``qnn.conv2d``, ...)."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name in names


def codes_of(attrs: Attrs, prefix: str = "") -> Codes:
    """Read the codes that ``lo``, ``hi`` and ``step`` (with a prefix) describe."""
    return Codes(attrs[f"{prefix}lo"], attrs[f"{prefix}hi"], attrs[f"{prefix}step"])


def code_attrs(codes: Codes, prefix: str = "") -> Attrs:
    """Undo :func:`codes_of`."""
    return {f"{prefix}lo": codes.lo, f"{prefix}hi": codes.hi, f"{prefix}step": codes.step}


def shape_of(expr: Any) -> list[int]:
    """Return the static shape of a tensor expression.

    Raises:
        TypeError: if a dimension is not a constant.
    """
    if expr.ty.shape is None:
        raise TypeError("the rank and the shape must be known")
    dims = list(expr.ty.shape)
    if not all(hasattr(d, "value") for d in dims):
        raise TypeError(f"dynamic shape {dims}: fix the batch size and all other dimensions")
    return [int(d.value) for d in dims]


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if hasattr(value, "value"):
        return value.value
    return [_plain(v) for v in value]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise TypeError(message)


def _need_dtype(expr: Any, *dtypes: str) -> None:
    found = str(expr.ty.dtype)
    _need(found in dtypes, f"dtype {found} where {' or '.join(dtypes)} is needed")


def _need_codes(expr: Any, codes: Codes) -> None:
    _need_dtype(expr, codes.dtype)


def _channels(attrs: Attrs, args: Sequence[Any], shape: list[int]) -> None:
    """Check per-axis parameters: one element, or as many as the axis is long."""
    axis = attrs.get("axis")
    for arg in args:
        dims = shape_of(arg)
        size = dims[0] if dims else 1
        _need(len(dims) <= 1, f"a parameter of shape {dims}, scalar or vector is needed")
        if size > 1:
            if axis is None:
                raise TypeError(f"{size} parameters but no axis")
            _need(-len(shape) <= axis < len(shape), f"axis {axis} of a tensor of shape {shape}")
            _need(size == shape[axis], f"{size} parameters for axis {axis} of length {shape[axis]}")


def _tensor(shape: Sequence[int], dtype: str) -> Any:
    return relax.TensorType([int(d) for d in shape], dtype)


def _infer_quantize(call: Any, a: Attrs) -> Any:
    x, scale, zero = call.args
    _need_dtype(x, "float32")
    _need_dtype(scale, "float32")
    _need_dtype(zero, "int32")
    _need(a["rounding"] in ROUNDINGS, f"rounding {a['rounding']!r} is none of {list(ROUNDINGS)}")
    shape = shape_of(x)
    _channels(a, (scale, zero), shape)
    return _tensor(shape, codes_of(a).dtype)


def _infer_dequantize(call: Any, a: Attrs) -> Any:
    q, scale, zero = call.args
    _need_codes(q, codes_of(a))
    _need_dtype(scale, "float32")
    _need_dtype(zero, "int32")
    shape = shape_of(q)
    _channels(a, (scale, zero), shape)
    return _tensor(shape, "float32")


def _infer_lookup(call: Any, a: Attrs) -> Any:
    q, table = call.args
    _need_codes(q, codes_of(a))
    _need_dtype(table, "float32")
    shape, rows = shape_of(q), shape_of(table)
    _need(len(rows) in (1, 2), f"a codebook of shape {rows}, [M] or [axis, M] is needed")
    _need(rows[-1] == codes_of(a).count, f"{rows[-1]} values for {codes_of(a).count} codes")
    if len(rows) == 2 and rows[0] > 1:
        _need(a.get("axis") is not None and shape[a["axis"]] == rows[0], "codebook rows and axis")
    return _tensor(shape, "float32")


def conv_output(x: Sequence[int], w: Sequence[int], a: Attrs) -> list[int]:
    """Return the NHWC output shape of a convolution, or raise TypeError where shapes do not fit."""
    _need(len(x) == 4 and len(w) == 4, f"conv2d of shapes {list(x)} and {list(w)}, rank 4 needed")
    groups = a["groups"]
    _need(
        groups >= 1 and x[3] % groups == 0 and w[0] % groups == 0 and w[3] * groups == x[3],
        f"{x[3]} input and {w[0]} output channels in {groups} groups of {w[3]} input channels",
    )
    top, left, bottom, right = a["padding"]
    _need(min(a["padding"]) >= 0, f"negative padding {a['padding']}")
    out_h = output_size(x[1], w[1], a["strides"][0], top + bottom, a["dilation"][0])
    out_w = output_size(x[2], w[2], a["strides"][1], left + right, a["dilation"][1])
    _need(out_h > 0 and out_w > 0, f"a {w[1]}x{w[2]} kernel on a {x[1]}x{x[2]} image")
    return [x[0], out_h, out_w, w[0]]


def _sum_fits(count: int, x: Codes, x_zero: int, w: Codes, w_zero: Sequence[int]) -> None:
    """Prove from the ranges that a sum of ``count`` products fits int32."""
    high_x = max(abs(x.lo - x_zero), abs(x.hi - x_zero))
    high_w = max(max(abs(w.lo - z), abs(w.hi - z)) for z in w_zero)
    bound = count * high_x * high_w
    _need(bound < 2**31, f"sums of {count} products can reach {bound}, beyond int32")


def _activation_shape(x: Any, codes: Codes, a: Attrs) -> list[int]:
    """Return the shape of activations [..., C] that may come as bit planes."""
    if a["x_layout"] != "planes":
        _need_codes(x, codes)
        return shape_of(x)
    _need_dtype(x, "uint32")
    *outer, planes, words = shape_of(x)
    channels = a["channels"]
    _need(planes == codes.bits, f"{planes} bit planes of {codes.bits}-bit codes")
    _need(words == -(-channels // 32), f"{words} words for {channels} channels")
    return [*outer, channels]


def _zeros_fit(zeros: Sequence[int], channels: int) -> None:
    _need(len(zeros) in (1, channels), f"{len(zeros)} zero points for {channels} output channels")


def _infer_conv2d(call: Any, a: Attrs) -> Any:
    x, w = call.args
    xc, wc = codes_of(a, "x_"), codes_of(a, "w_")
    _need_codes(w, wc)
    ws = shape_of(w)
    xs = _activation_shape(x, xc, a)
    _zeros_fit(a["w_zero"], ws[0])
    out = conv_output(xs, ws, a)
    _sum_fits(ws[1] * ws[2] * ws[3], xc, a["x_zero"], wc, a["w_zero"])
    return _tensor(out, "int32")


def _infer_codebook_conv2d(call: Any, a: Attrs) -> Any:
    x, w, table = call.args
    xs, ws, rows = shape_of(x), shape_of(w), shape_of(table)
    _need_codes(x, codes_of(a, "x_"))
    _need_dtype(w, "uint8")
    _need_dtype(table, "float32")
    _need(len(rows) == 2 and rows[0] in (1, ws[0]), f"a codebook of shape {rows}")
    out = conv_output(xs, ws, a)
    count = ws[1] * ws[2] * ws[3]
    _sum_fits(count, codes_of(a, "x_"), a["x_zero"], Codes(0, 1), [0])
    return _tensor(out, "float32")


def _infer_dense(call: Any, a: Attrs) -> Any:
    x, w = call.args
    xc, wc = codes_of(a, "x_"), codes_of(a, "w_")
    _need_codes(w, wc)
    ws = shape_of(w)
    xs = _activation_shape(x, xc, a)
    _zeros_fit(a["w_zero"], ws[0])
    _need(len(ws) == 2 and xs[-1] == ws[1], f"dense of shapes {xs} and {ws}")
    _sum_fits(ws[1], xc, a["x_zero"], wc, a["w_zero"])
    return _tensor([*xs[:-1], ws[0]], "int32")


def _infer_affine(call: Any, a: Attrs) -> Any:
    acc, mul, add = call.args
    _need_dtype(acc, "int32", "uint8", "int8", "uint16", "int16", "float32")
    _need_dtype(mul, "float32", "float64")
    _need_dtype(add, "float32", "float64")
    shape = shape_of(acc)
    _channels({"axis": -1}, (mul, add), shape)
    return _tensor(shape, "float32")


def _infer_requantize(call: Any, a: Attrs) -> Any:
    _infer_affine(call, a)
    _need(a["rounding"] in ROUNDINGS, f"rounding {a['rounding']!r} is none of {list(ROUNDINGS)}")
    return _tensor(shape_of(call.args[0]), codes_of(a).dtype)


def _infer_threshold(call: Any, a: Attrs) -> Any:
    acc, thresholds, falling = call.args
    _need_dtype(acc, "int32")
    shape, rows = shape_of(acc), shape_of(thresholds)
    _need_dtype(thresholds, "int32")
    _need_dtype(falling, "bool", "uint8", "int32")
    _need(
        rows == [shape[-1], codes_of(a).count - 1] and shape_of(falling) == rows[:1],
        f"thresholds of shape {rows} for {shape[-1]} channels of {codes_of(a).count} codes",
    )
    return _tensor(shape, codes_of(a).dtype)


def _infer_add(call: Any, a: Attrs) -> Any:
    shape = shape_of(call.args[0])
    _need(shape == shape_of(call.args[1]), "residual addition of different shapes")
    return _tensor(shape, codes_of(a).dtype)


def _pool_output(call: Any, a: Attrs) -> list[int]:
    shape = shape_of(call.args[0])
    kernel = [*a["kernel"], shape[3]]
    return conv_output(shape, [shape[3], kernel[0], kernel[1], shape[3]], {**a, "groups": 1})


def _infer_max_pool2d(call: Any, a: Attrs) -> Any:
    _need_codes(call.args[0], codes_of(a))
    return _tensor(_pool_output(call, a), codes_of(a).dtype)


def _infer_sum_pool2d(call: Any, a: Attrs) -> Any:
    _need_codes(call.args[0], codes_of(a))
    return _tensor(_pool_output(call, a), "int32")


def _infer_pack(call: Any, a: Attrs) -> Any:
    codes = codes_of(a)
    _need_codes(call.args[0], codes)
    shape = shape_of(call.args[0])
    return _tensor([*shape[:-1], codes.bits, -(-shape[-1] // 32)], "uint32")


OPERATORS: dict[str, tuple[Infer, str]] = {
    "qnn.quantize": (_infer_quantize, "spec.quantize(x, scale, zero)"),
    "qnn.dequantize": (_infer_dequantize, "spec.dequantize(q, scale, zero)"),
    "qnn.lookup": (_infer_lookup, "spec.dequantize(q, codebook)"),
    "qnn.conv2d": (_infer_conv2d, "spec.conv2d(x, w)"),
    "qnn.codebook_conv2d": (_infer_codebook_conv2d, "spec.codebook_conv2d(x, w, codebook)"),
    "qnn.dense": (_infer_dense, "spec.dense(x, w)"),
    "qnn.affine": (_infer_affine, "spec.affine(acc, mul, add)"),
    "qnn.requantize": (_infer_requantize, "spec.requantize(acc, mul, add)"),
    "qnn.threshold": (_infer_threshold, "spec.threshold(acc, thresholds, falling)"),
    "qnn.add": (_infer_add, "spec.add(a, b)"),
    "qnn.max_pool2d": (_infer_max_pool2d, "spec.max_pool2d(x)"),
    "qnn.sum_pool2d": (_infer_sum_pool2d, "spec.sum_pool2d(x)"),
    "qnn.pack": (_infer_pack, "spec.pack_planes(x)"),
}


def register(name: str, infer: Infer, doc: str) -> None:
    """Make an operator known to Relax; what ``infer`` raises names the operator."""

    def infer_type(call: Any, _ctx: Any) -> Any:
        try:
            return infer(call, attrs_of(call))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None

    tvm.ir._ffi_api.RegisterOp(name, doc)
    tvm.ir.register_op_attr(name, "FInferType", infer_type)
    tvm.ir.register_op_attr(name, "FPurity", True)


for _name, (_infer, _doc) in OPERATORS.items():
    register(_name, _infer, _doc)
