"""Small networks in ONNX, with scales that are powers of two.

With such scales every float32 step of the source is exact, so ONNX Runtime computes the same codes
as the integer program, and tests may compare with ``==``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


class Graph:
    """Builds an ONNX model node by node; methods return the name of their result."""

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = list(shape)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def const(self, value: Any, stem: str = "c") -> str:
        name = self.name(stem)
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        name = self.name(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attrs))
        return f"{name}_out"

    def quantize(self, x: str, scale: float, zero: int = 0, dtype: str = "uint8") -> str:
        """QuantizeLinear and DequantizeLinear."""
        s, z = self.const(np.float32(scale)), self.const(np.dtype(dtype).type(zero))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, s, z]), s, z])

    def limited(self, x: str, levels: int, step: float) -> str:
        """Clip to ``levels`` states from 0 on before an 8-bit quantizer."""
        lo, hi = self.const(np.float32(0)), self.const(np.float32((levels - 1) * step))
        return self.quantize(self.node("Clip", [x, lo, hi]), step)

    def arithmetic(self, x: str, levels: int, step: float, bipolar: bool = False) -> str:
        """Clip, Round, Mul: a quantizer without any quantization node."""
        x = self.node("Mul", [x, self.const(np.float32(1 / step))])
        x = self.node("Clip", [x, self.const(np.float32(0)), self.const(np.float32(levels - 1))])
        x = self.node("Round", [x])
        if bipolar:
            x = self.node("Mul", [x, self.const(np.float32(2))])
            return self.node("Add", [x, self.const(np.float32(1 - levels))])
        return self.node("Mul", [x, self.const(np.float32(step))])

    def weights(
        self, shape: Sequence[int], lo: int = -1, hi: int = 1, scale: Any = 0.5, zero: Any = 0,
        step: int = 1,
    ) -> str:  # fmt: skip
        """Integer weights through DequantizeLinear, per tensor or per channel of axis 0."""
        codes = self.rng.integers(0, (hi - lo) // step + 1, shape) * step + lo
        codes.reshape(-1)[:2] = lo, hi
        scales, zeros = np.asarray(scale, np.float32), np.asarray(zero, np.int8)
        attrs = {"axis": 0} if scales.ndim else {}
        if scales.ndim and not zeros.ndim:
            zeros = np.full(scales.shape, zeros)
        return self.node(
            "DequantizeLinear",
            [self.const(codes.astype(np.int8), "w"), self.const(scales), self.const(zeros)],
            **attrs,
        )

    def float_weights(self, values: np.ndarray) -> str:
        """Float weights as they are."""
        return self.const(values.astype(np.float32), "w")

    def bias(self, channels: int, unit: float = 0.25) -> str:
        """A bias of multiples of ``unit``."""
        return self.const((self.rng.integers(-8, 9, channels) * unit).astype(np.float32), "b")

    def conv(self, x: str, w: str, bias: str | None = None, **attrs: Any) -> str:
        return self.node("Conv", [x, w] + ([bias] if bias else []), **attrs)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def input(self, low: float = -4, high: float = 4, unit: float = 0.125) -> np.ndarray:
        """Random multiples of ``unit``."""
        values = self.rng.integers(round(low / unit), round(high / unit) + 1, self.shape)
        return (values * unit).astype(np.float32)


def plain() -> Graph:
    """Bias, relu, per-channel weights with zero points, zero point of the activations."""
    g = Graph([1, 5, 9, 7])
    x = g.quantize("x", 0.125, 31)
    scales = 2.0 ** g.rng.integers(-3, 1, 12)
    w = g.weights([12, 5, 3, 3], -8, 7, scales, zero=g.rng.integers(-2, 3, 12))
    x = g.node("Relu", [g.conv(x, w, g.bias(12), pads=[1, 1, 1, 1])])
    x = g.quantize(x, 0.5, 3)
    x = g.conv(x, g.weights([6, 12, 1, 1], -128, 127, 0.0078125))
    g.out = g.quantize(x, 0.25, 17, "int8")
    return g


def residual() -> Graph:
    """Two residual blocks, one with a strided shortcut, as quantizers are exported."""
    g = Graph([2, 8, 8, 8])
    x = g.quantize("x", 0.125, 128)
    for channels, stride in ((8, 1), (16, 2)):
        before = x
        w = g.weights([channels, g.channels if hasattr(g, "channels") else 8, 3, 3])
        y = g.node("Relu", [g.conv(x, w, g.bias(channels), pads=[1] * 4, strides=[stride] * 2)])
        y = g.quantize(y, 0.25)
        y = g.conv(y, g.weights([channels, channels, 3, 3]), pads=[1] * 4)
        y = g.quantize(y, 0.5, -5, "int8")
        if stride != 1:
            shortcut = g.weights([channels, g.channels, 1, 1])
            before = g.quantize(g.conv(before, shortcut, strides=[stride] * 2), 0.5, 100)
        x = g.quantize(g.node("Relu", [g.node("Add", [y, before])]), 0.5, 0)
        g.channels = channels
    x = g.node("GlobalAveragePool", [x])
    x = g.quantize(x, 0.25)
    x = g.node("Flatten", [x])
    w = g.node("Transpose", [g.weights([10, 16])], perm=[1, 0])
    g.out = g.node("Add", [g.node("MatMul", [x, w]), g.bias(10)])
    return g


def mobile() -> Graph:
    """Depthwise and pointwise convolutions, strides, asymmetric padding, grouped convolution."""
    g = Graph([1, 3, 11, 11])
    x = g.quantize("x", 0.125, 128)
    x = g.conv(x, g.weights([16, 3, 3, 3], -127, 127, 0.03125), strides=[2, 2], pads=[0, 0, 1, 1])
    x = g.limited(x, 16, 0.5)
    x = g.conv(x, g.weights([16, 1, 3, 3], -7, 7), group=16, pads=[1, 0, 1, 2])
    x = g.limited(x, 16, 1.0)
    x = g.conv(x, g.weights([32, 16, 1, 1], -2, 1))
    x = g.limited(x, 4, 2.0)
    x = g.conv(x, g.weights([24, 8, 3, 3]), group=4, dilations=[2, 1], pads=[2, 1, 2, 1])
    x = g.node("MaxPool", [g.quantize(x, 0.5, 9)], kernel_shape=[2, 2], strides=[2, 2])
    g.out = g.conv(x, g.weights([5, 24, 1, 1]))
    return g


def binary() -> Graph:
    """Bipolar weights and activations with zero padding, from plain arithmetic."""
    g = Graph([1, 32, 6, 5])
    x = g.arithmetic("x", 2, 1.0, bipolar=True)
    x = g.conv(x, g.float_weights(g.rng.choice([-0.5, 0.5], [64, 32, 3, 3])), pads=[1] * 4)
    x = g.arithmetic(x, 2, 1.0, bipolar=True)
    x = g.conv(x, g.float_weights(g.rng.choice([-1.0, 1.0], [33, 64, 3, 3])), pads=[1, 0, 0, 2])
    x = g.arithmetic(x, 4, 1.0, bipolar=True)
    g.out = g.conv(x, g.float_weights(g.rng.choice([-3.0, -1.0, 1.0, 3.0], [7, 33, 1, 1])))
    return g


def codebooks() -> Graph:
    """M-ary weights from Gather, one of them asymmetric, against 8-bit and 2-bit activations."""
    g = Graph([1, 4, 6, 6])
    x = g.quantize("x", 0.125, 128)
    for m, channels, inner in ((3, 32, 4), (5, 8, 32)):
        table = (g.rng.integers(-40, 40, m) * 0.0625 + 0.03125).astype(np.float32)
        index = g.rng.integers(0, m, [channels, inner, 3, 3])
        w = g.node("Gather", [g.const(table), g.const(index)])
        x = g.limited(g.conv(x, w, pads=[1] * 4), 4, 8.0)
    g.out = g.node("Identity", [x])
    return g


def _mary(values: int) -> Graph:
    """A network of M asymmetric values: strided, depthwise and grouped, per channel, and dense."""
    g = Graph([2, 3, 12, 12], seed=values)

    def table(*shape: int) -> np.ndarray:
        return (g.rng.integers(-40, 24, [*shape, values]) * 0.0625 + 0.03125).astype(np.float32)

    def layer(*shape: int) -> str:
        index = g.rng.integers(0, values, shape)
        return g.node("Gather", [g.const(table()), g.const(index)])

    def layer_per_channel(*shape: int) -> str:
        index = g.rng.integers(0, values, (shape[0], int(np.prod(shape[1:]))))
        rows = g.node("GatherElements", [g.const(table(shape[0])), g.const(index)], axis=1)
        return g.node("Reshape", [rows, g.const(np.array(shape, np.int64))])

    x = g.quantize("x", 0.125, 128)
    x = g.conv(x, layer(16, 3, 3, 3), g.bias(16), strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.quantize(g.node("Relu", [x]), 0.5)
    x = g.quantize(g.conv(x, layer(16, 1, 3, 3), group=16, pads=[1] * 4), 1.0, 100)
    x = g.conv(x, layer_per_channel(20, 16, 1, 1), g.bias(20))
    x = g.limited(x, 16, 4.0)
    x = g.conv(x, layer(24, 10, 3, 3), group=2, pads=[0, 1, 1, 0])
    x = g.quantize(x, 2.0, -3, "int8")
    x = g.quantize(g.node("MaxPool", [x], kernel_shape=[5, 5]), 2.0, -3, "int8")
    x = g.node("Flatten", [x])
    g.out = g.node("Gemm", [x, layer(10, 24), g.bias(10)], transB=1)
    return g


def mary3() -> Graph:
    """Three values."""
    return _mary(3)


def mary4() -> Graph:
    """Four values."""
    return _mary(4)


def mary5() -> Graph:
    """Five values."""
    return _mary(5)


ALL = {f.__name__: f for f in (plain, residual, mobile, binary, codebooks, mary3, mary4, mary5)}
