"""Converters of ATen operators to Relax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.batch_norm import affine_constants
from tvm_qnn.frontend.record import Refused
from tvm_qnn.frontend.torch_graph import Node, Value
from tvm_qnn.frontend.window import ceil_padding


def binary(op: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    """Return the converter of an arithmetic operator; operands get the dtype of the result."""

    def convert(n: Node) -> Any:
        n.need(n["rounding_mode"] is None, f"rounding_mode {n['rounding_mode']!r} is not supported")
        right = n.operand("other", n.dtype)
        if n["alpha"] not in (None, 1):
            right = n.emit(relax.op.multiply(right, n.operand("alpha", n.dtype)))
        return op(n.operand("self", n.dtype), right)

    return convert


def comparison(op: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    """Return the converter of a comparison of tensors of one dtype, or with a number."""

    def convert(n: Node) -> Any:
        kinds = {v.dtype for v in (n.values[i.name] for i in n.node.all_input_nodes)}
        n.need(len(kinds) == 1, f"comparison of {' and '.join(sorted(kinds))}")
        dtype = kinds.pop()
        fits = dtype == "float32" or not isinstance(n["other"], float)
        n.need(fits, f"comparison of {dtype} with {n['other']}")
        return op(n.operand("self", dtype), n.operand("other", dtype))

    return convert


def unary(op: Callable[[Any], Any]) -> Callable[[Node], Any]:
    """Return the converter of a function of one tensor."""

    def convert(n: Node) -> Any:
        return op(n.operand("self", n.dtype))

    return convert


def round_half_even(n: Node) -> Any:
    """round: ``R.round``."""
    n.need(n["decimals"] in (None, 0), f"decimals {n['decimals']} are not supported")
    # R.round rounds half to even, as torch does.
    return relax.op.round(n.use("self"))


def clamp(n: Node) -> Any:
    """Clamp and hardtanh with numbers as bounds: ``R.clip``, ``R.maximum`` or ``R.minimum``."""
    low, high = n["min"], n["max"]
    low = n["min_val"] if low is None else low
    high = n["max_val"] if high is None else high
    x = n.operand("self", n.dtype)
    numbers = all(isinstance(v, int | float) for v in (low, high) if v is not None)
    n.need(numbers, "bounds that are tensors are not supported")
    if low is not None and high is not None:
        n.need(low <= high, f"min {low} is above max {high}")
        ends = np.asarray([low, high], n.dtype).astype(float)
        return relax.op.clip(x, float(ends[0]), float(ends[1]))
    if low is not None:
        return relax.op.maximum(x, relax.const(np.asarray(low, n.dtype), n.dtype))
    n.need(high is not None, "neither min nor max")
    return relax.op.minimum(x, relax.const(np.asarray(high, n.dtype), n.dtype))


def relu6(n: Node) -> Any:
    """relu6: ``R.clip``."""
    return relax.op.clip(n.use("self"), 0.0, 6.0)


def conv(n: Node) -> Any:
    """Convolution over 1, 2 or 3 axes: ``R.nn.conv2d`` NCHW and OIHW, then ``R.add``."""
    x, w = n.value("input"), n.value("weight")
    rank = len(w.shape) - 2
    n.need(len(x.shape) == len(w.shape), f"shapes {x.shape} and {w.shape}; give it a batch axis")
    n.need(not n["transposed"], "transposed convolution is not supported")
    strides, dilation = n.pair("stride", rank), n.pair("dilation", rank)
    if n["padding"] == "same":
        total = [d * (k - 1) for k, d in zip(w.shape[2:], dilation, strict=True)]
        before = [t // 2 for t in total]
        pads = before + [t - b for t, b in zip(total, before, strict=True)]
    elif n["padding"] == "valid":
        pads = [0] * rank * 2
    else:
        pads = n.pair("padding", rank) * 2
    op = getattr(relax.op.nn, f"conv{rank}d")
    y = op(x.use(), w.use(), strides=strides, padding=pads, dilation=dilation, groups=n["groups"])
    if n["bias"] is None:
        return y
    return relax.op.add(n.emit(y), _reshaped(n, n.value("bias"), [1, -1] + [1] * rank))


def _reshaped(n: Node, value: Value, shape: list[int]) -> Any:
    if value.data is not None:
        return relax.const(value.data.reshape(shape), value.dtype)
    full = [value.shape[0] if d == -1 else d for d in shape]
    return n.emit(relax.op.reshape(value.use(), full))


def linear(n: Node) -> Any:
    """linear: ``R.matmul`` with the transposed weights, then ``R.add``."""
    w = n.value("weight")
    n.need(len(w.shape) == 2, f"weights of shape {w.shape}")
    y = relax.op.matmul(n.use("input"), n.emit(relax.op.permute_dims(w.use(), [1, 0])))
    return y if n["bias"] is None else relax.op.add(n.emit(y), n.use("bias"))


def addmm(n: Node) -> Any:
    """addmm: ``R.matmul``, then ``R.add``."""
    n.need(n["alpha"] == 1 and n["beta"] == 1, "alpha and beta other than 1 are not supported")
    y = n.emit(relax.op.matmul(n.use("mat1"), n.use("mat2")))
    return relax.op.add(y, n.use("self"))


def matmul(n: Node) -> Any:
    """matmul, mm and bmm: ``R.matmul``."""
    other = "mat2" if n["other"] is None else "other"
    return relax.op.matmul(n.use("self"), n.use(other))


def batch_norm(n: Node) -> Any:
    """batch_norm in eval mode: ``x * a + b`` with constants [C, 1, ...]."""
    n.need(not n["training"], "it is in training mode; call model.eval() before exporting")
    x = n.value("input")
    parts = []
    for name, default in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        given = n[name] is not None
        data = n.value(name).data if given else np.full(x.shape[1], default, np.float32)
        if data is None:
            raise Refused(f"{name} is not a constant")
        parts.append(data)
    factor, offset = affine_constants(*parts, epsilon=float(n["eps"]), rank=len(x.shape))
    scaled = n.emit(relax.op.multiply(x.use(), relax.const(factor, "float32")))
    return relax.op.add(scaled, relax.const(offset, "float32"))


def pool(n: Node) -> Any:
    """Maximum and average pooling: ``R.nn.max_pool2d``, ``R.nn.avg_pool2d``."""
    x = n.value("self")
    name = str(n.node.target.__name__).split(".")[0].removesuffix("_with_indices")
    rank = int(name[-2])
    n.need(len(x.shape) == rank + 2, f"its input has shape {x.shape}; give it a batch axis")
    kernel = n.pair("kernel_size", rank)
    strides = n.pair("stride", rank) if n["stride"] else kernel
    pads = n.pair("padding", rank) * 2
    dilation = n.pair("dilation", rank) if n["dilation"] is not None else [1] * rank
    whole = ceil_padding(x.shape[2:], kernel, strides, pads, dilation) if n["ceil_mode"] else pads
    n.need(n["divisor_override"] is None, "divisor_override is not supported")
    if name.startswith("max"):
        op = getattr(relax.op.nn, name)
        return op(x.use(), kernel, strides, whole, dilation)
    include = bool(n["count_include_pad"]) and any(pads)
    n.need(whole == pads or not include, "ceil_mode with count_include_pad is not supported")
    op = getattr(relax.op.nn, name)
    return op(x.use(), kernel, strides, whole, dilation, count_include_pad=include)


def adaptive_avg_pool(n: Node) -> Any:
    """adaptive_avg_pool with windows of one size: ``R.mean`` or ``R.nn.avg_pool2d``."""
    x = n.value("self")
    rank = int(str(n.node.target.__name__).split(".")[0][-2])
    out = n.pair("output_size", rank)
    sizes = x.shape[-rank:]
    n.need(len(x.shape) == rank + 2, f"its input has shape {x.shape}; give it a batch axis")
    if set(out) == {1}:
        return relax.op.mean(x.use(), axis=list(range(2, rank + 2)), keepdims=True)
    fits = all(s % o == 0 for s, o in zip(sizes, out, strict=True))
    n.need(fits, f"{list(sizes)} to {out}: windows of different sizes are not supported")
    kernel = [s // o for s, o in zip(sizes, out, strict=True)]
    return getattr(relax.op.nn, f"avg_pool{rank}d")(x.use(), kernel, kernel)


def reduction(op: Callable[..., Any]) -> Callable[[Node], Any]:
    """Return the converter of a reduction over some or all axes."""

    def convert(n: Node) -> Any:
        x = n.operand("self", n.dtype)
        dim = n["dim"]
        axes = [dim] if isinstance(dim, int) else list(dim or range(len(n.value("self").shape)))
        return op(x, axis=axes, keepdims=bool(n["keepdim"]))

    return convert


def reshape(n: Node) -> Any:
    """view, flatten, squeeze and their like: ``R.reshape`` to the static shape."""
    x = n.value("self")
    return x if x.shape == n.shape else relax.op.reshape(x.use(), list(n.shape))


def permute(n: Node) -> Any:
    """permute, transpose and t: ``R.permute_dims``."""
    rank = len(n.value("self").shape)
    order = list(range(rank))
    if n["dims"] is not None:
        order = [d % rank for d in n["dims"]]
    else:
        first, second = (0, 1) if n["dim0"] is None else (n["dim0"], n["dim1"])
        order[first], order[second] = order[second], order[first]
    return relax.op.permute_dims(n.use("self"), order)


def cat(n: Node) -> Any:
    """cat: ``R.concat``."""
    parts = [n.values[t.name] for t in n["tensors"]]
    n.need({p.dtype for p in parts} == {n.dtype}, "its inputs have different types")
    return relax.op.concat([p.use() for p in parts], int(n["dim"]))


def pad(n: Node) -> Any:
    """Constant padding: ``R.nn.pad``."""
    n.need(n["mode"] in (None, "constant"), f"mode {n['mode']!r} is not supported")
    rank, given = len(n.value("self").shape), list(n["pad"])
    n.need(min(given) >= 0, f"negative pads {given} are not supported")
    # torch lists the last axis first.
    pairs = [given[k : k + 2] for k in range(0, len(given), 2)][::-1]
    widths = [0, 0] * (rank - len(pairs)) + [w for pair in pairs for w in pair]
    return relax.op.nn.pad(n.use("self"), widths, pad_value=float(n["value"] or 0.0))


def where(n: Node) -> Any:
    """where: ``R.where``."""
    return relax.op.where(
        n.use("condition"), n.operand("self", n.dtype), n.operand("other", n.dtype)
    )


def dropout(n: Node) -> Any:
    """Dropout in eval mode: nothing at all."""
    n.need(not n["train"], "it is in training mode; call model.eval() before exporting")
    return n.value("input")


def to(n: Node) -> Any:
    """Conversion of the dtype: ``R.astype``."""
    x = n.value("self")
    return x if x.dtype == n.dtype else relax.op.astype(x.use(), n.dtype)


def expand(n: Node) -> Any:
    """expand: ``R.broadcast_to``."""
    return relax.op.broadcast_to(n.use("self"), list(n.shape))


def softmax(n: Node) -> Any:
    """softmax: ``R.nn.softmax``."""
    return relax.op.nn.softmax(n.operand("self", n.dtype), int(n["dim"]))


def leaky_relu(n: Node) -> Any:
    """leaky_relu: ``R.nn.leakyrelu``."""
    return relax.op.nn.leakyrelu(n.use("self"), float(n["negative_slope"]))


def gelu(n: Node) -> Any:
    """gelu, exact or by tanh: ``R.nn.gelu`` or ``R.nn.gelu_tanh``."""
    op = relax.op.nn.gelu_tanh if n["approximate"] == "tanh" else relax.op.nn.gelu
    return op(n.use("self"))


def slice_axis(n: Node) -> Any:
    """A slice of one axis: ``R.strided_slice``."""
    x = n.value("self")
    axis = int(n["dim"]) % len(x.shape)
    start, stop, step = slice(n["start"], n["end"], int(n["step"])).indices(x.shape[axis])
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    return relax.op.strided_slice(x.use(), [axis], [start], [stop], [step])


def select(n: Node) -> Any:
    """One index of an axis: ``R.strided_slice``, then ``R.reshape``."""
    x = n.value("self")
    axis = int(n["dim"]) % len(x.shape)
    start = int(n["index"]) % x.shape[axis]
    part = n.emit(relax.op.strided_slice(x.use(), [axis], [start], [start + 1]))
    return relax.op.reshape(part, list(n.shape))
