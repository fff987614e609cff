"""Converters of ONNX layers: convolution, matrix products, pooling, batch normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.batch_norm import affine_constants
from tvm_qnn.frontend.onnx_graph import Node, Value
from tvm_qnn.frontend.window import ceil_padding


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes; ``pads`` are all beginnings, then all ends."""

    kernel: list[int]
    strides: list[int]
    pads: list[int]
    dilations: list[int]


def window(n: Node, sizes: tuple[int, ...], kernel: list[int]) -> Window:
    """Read the window attributes of a convolution or pool, and resolve ``auto_pad``."""
    rank = len(sizes)
    strides, dilations = n.ints("strides", [1] * rank), n.ints("dilations", [1] * rank)
    pads = n.ints("pads", [0] * rank * 2)
    n.need(1 <= rank <= 3, f"{rank} spatial axes; 1, 2 or 3 are supported")
    n.need(
        len(kernel) == len(strides) == len(dilations) == rank and len(pads) == 2 * rank,
        f"kernel {kernel}, strides {strides}, dilations {dilations}, pads {pads} for {rank} axes",
    )
    n.need(
        min(kernel + strides + dilations) >= 1 and min(pads) >= 0,
        f"kernel {kernel}, strides {strides}, dilations {dilations} must be positive and pads "
        f"{pads} not negative",
    )
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = n.attrs.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, span, stride in zip(sizes, spans, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if mode == "SAME_UPPER" else large)
            after.append(large if mode == "SAME_UPPER" else small)
        pads = before + after
    elif mode == "VALID":
        pads = [0] * rank * 2
    else:
        n.need(mode == "NOTSET", f"auto_pad {mode!r} is not known")
    for i, size in enumerate(sizes):
        padded = size + pads[i] + pads[rank + i]
        n.need(
            spans[i] <= padded,
            f"a window of {spans[i]} on an axis of length {size} with padding {padded - size}",
        )
    return Window(kernel, strides, pads, dilations)


def conv(n: Node) -> Any:
    """Conv over 1, 2 or 3 spatial axes: ``R.nn.conv2d`` NCHW and OIHW, then ``R.add``."""
    x, w, bias = n.input(0), n.input(1), n.optional(2)
    groups = int(n.attrs.get("group", 1))
    n.need(len(x.shape) == len(w.shape) >= 3, f"shapes {list(x.shape)} and {list(w.shape)}")
    kernel = n.ints("kernel_shape", list(w.shape[2:]))
    n.need(
        kernel == list(w.shape[2:]),
        f"kernel_shape {kernel} does not fit weights of shape {list(w.shape)}",
    )
    n.need(
        groups >= 1 and x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0,
        f"input of shape {list(x.shape)} and weights of shape {list(w.shape)} with group={groups}: "
        "the channels do not fit",
    )
    found = window(n, x.shape[2:], kernel)
    op = getattr(relax.op.nn, f"conv{len(kernel)}d")
    y = op(
        x.use(), w.use(), strides=found.strides, padding=found.pads, dilation=found.dilations,
        groups=groups,
    )  # fmt: skip
    if bias is None:
        return y
    n.need(bias.shape == w.shape[:1], f"bias of shape {list(bias.shape)} for {w.shape[0]} channels")
    shape = [1, w.shape[0], *([1] * len(kernel))]
    return relax.op.add(n.emit(y), _reshaped(n, bias, shape))


def _reshaped(n: Node, value: Value, shape: list[int]) -> Any:
    if value.data is not None:
        return relax.const(value.data.reshape(shape), value.dtype)
    return n.emit(relax.op.reshape(value.use(), shape))


def matmul(n: Node) -> Any:
    """MatMul: ``R.matmul``."""
    a, b = n.input(0), n.input(1)
    n.need(a.shape and b.shape, "a product of scalars")
    n.need(a.dtype == b.dtype == "float32", f"a product of {a.dtype} and {b.dtype}, not float")
    return relax.op.matmul(a.use(), b.use())


def gemm(n: Node) -> Any:
    """Gemm ``alpha * A' @ B' + beta * C``: ``R.matmul`` and ``R.add``, without factors of 1."""
    a, b, c = n.input(0), n.input(1), n.optional(2)
    n.need(a.dtype == b.dtype == "float32", f"a product of {a.dtype} and {b.dtype}, not float")
    alpha, beta = float(n.attrs.get("alpha", 1.0)), float(n.attrs.get("beta", 1.0))
    rows, columns = n.result().shape
    fits = c is None or all(
        d in (1, e) for d, e in zip(c.shape[::-1], (columns, rows), strict=False)
    )
    n.need(fits and (c is None or len(c.shape) <= 2), f"C of shape {c and list(c.shape)}")
    left, right = a.use(), b.use()
    if n.attrs.get("transA", 0):
        left = n.emit(relax.op.permute_dims(left, [1, 0]))
    if n.attrs.get("transB", 0):
        right = n.emit(relax.op.permute_dims(right, [1, 0]))
    y = relax.op.matmul(left, right)
    if alpha != 1.0:
        y = relax.op.multiply(n.emit(y), relax.const(np.float32(alpha), "float32"))
    if c is None or beta == 0.0:
        return y
    if c.data is not None:
        offset = relax.const(np.multiply(c.data, np.float32(beta)), "float32")
    elif beta != 1.0:
        factor = relax.const(np.float32(beta), "float32")
        offset = n.emit(relax.op.multiply(c.use(), factor))
    else:
        offset = c.use()
    return relax.op.add(n.emit(y), offset)


def batch_normalization(n: Node) -> Any:
    """BatchNormalization in inference: ``x * a + b`` with constants [C, 1, ...]."""
    n.need(not n.attrs.get("training_mode", 0), "training_mode is set; export for inference")
    n.need(n.attrs.get("spatial", 1), "spatial=0 is not supported")
    n.need(
        not any(n.proto.output[1:]),
        "it has outputs of training (running mean, variance); export for inference",
    )
    x = n.input(0)
    names = ("scale", "bias", "mean", "variance")
    parts = [n.constant(i, name) for i, name in enumerate(names, start=1)]
    n.need(len(x.shape) >= 2, f"its input has shape {list(x.shape)}")
    channels = x.shape[1]
    sizes = [v.shape for v in parts]
    n.need(all(s == (channels,) for s in sizes), f"parameters of shapes {sizes}, ({channels},)")
    factor, offset = affine_constants(
        *parts, epsilon=float(n.attrs.get("epsilon", 1e-5)), rank=len(x.shape)
    )
    scaled = relax.op.multiply(x.use(), relax.const(factor, "float32"))
    return relax.op.add(n.emit(scaled), relax.const(offset, "float32"))


def _pool_window(n: Node) -> tuple[Window, bool]:
    """Return the window with ``ceil_mode`` turned into padding, and whether that padded."""
    x = n.input(0)
    n.need(len(x.shape) >= 3, f"its input has shape {list(x.shape)}")
    sizes = x.shape[2:]
    found = window(n, sizes, n.ints("kernel_shape", []))
    rank = len(sizes)
    for i in range(rank):
        n.need(
            max(found.pads[i], found.pads[rank + i])
            < found.dilations[i] * (found.kernel[i] - 1) + 1,
            f"pads {found.pads} are not smaller than the kernel {found.kernel}",
        )
    pads = found.pads
    if n.attrs.get("ceil_mode", 0) and n.attrs.get("auto_pad", "NOTSET") == "NOTSET":
        pads = ceil_padding(sizes, found.kernel, found.strides, pads, found.dilations)
    return Window(found.kernel, found.strides, pads, found.dilations), pads != found.pads


def max_pool(n: Node) -> Any:
    """MaxPool of values or codes: ``R.nn.max_pool2d``; ``ceil_mode`` becomes padding."""
    n.need(not any(n.proto.output[1:]), "its second output (indices) is not supported")
    found, _ = _pool_window(n)
    op = getattr(relax.op.nn, f"max_pool{len(found.kernel)}d")
    return op(n.input(0).use(), found.kernel, found.strides, found.pads, found.dilations)


def average_pool(n: Node) -> Any:
    """AveragePool: ``R.nn.avg_pool2d``; ``ceil_mode`` becomes padding that is not counted."""
    found, padded = _pool_window(n)
    include = bool(n.attrs.get("count_include_pad", 0))
    n.need(not (padded and include), "ceil_mode together with count_include_pad is not supported")
    n.need(set(found.dilations) == {1}, f"dilations {found.dilations} are not supported")
    op = getattr(relax.op.nn, f"avg_pool{len(found.kernel)}d")
    return op(
        n.input(0).use(), found.kernel, found.strides, found.pads, found.dilations,
        count_include_pad=include and any(found.pads),
    )  # fmt: skip


def global_average_pool(n: Node) -> Any:
    """GlobalAveragePool: ``R.mean`` over the spatial axes, which stay with length 1."""
    x = n.input(0)
    n.need(len(x.shape) >= 3, f"its input has shape {list(x.shape)}")
    return relax.op.mean(x.use(), axis=list(range(2, len(x.shape))), keepdims=True)
