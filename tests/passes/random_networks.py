"""Random small networks whose float32 arithmetic is exact, so that their codes are known.

All scales are powers of two and all sums small, so ONNX Runtime without optimizations computes the
real numbers of the network exactly, and any rewriting must give the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.networks.models import Graph

KINDS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


@dataclass(frozen=True)
class Tensor:
    """A float tensor of the network, and whether a quantizer made it."""

    name: str
    shape: tuple[int, ...]
    quantized: bool = False


class RandomNetwork:
    """Draws a chain of layers with branches, from a seed."""

    def __init__(self, seed: int, layers: int = 6) -> None:
        self.rng = np.random.default_rng(seed)
        shape = (int(self.rng.choice([1, 2])), int(self.rng.choice([1, 3, 4, 8])), 6, 5)
        self.graph = Graph(shape, seed)
        self.outputs: list[tuple[str, int]] = []
        self.tensors: list[Tensor] = []
        self.codes: list[tuple[str, int]] = []
        current = self._quantize(Tensor("x", shape))
        for _ in range(layers):
            step = self._choice(self._steps(current))
            current = step(current)
            self.tensors.append(current)
        self.outputs.append((current.name, TensorProto.FLOAT))
        if self.rng.random() < 0.3:
            self.outputs.append((self._choice(self.tensors).name, TensorProto.FLOAT))
        if self.codes and self.rng.random() < 0.4:
            self.outputs.append(self._choice(self.codes))

    def model(self) -> onnx.ModelProto:
        """Return the network in ONNX."""
        g = self.graph
        outputs = dict(self.outputs)
        graph = helper.make_graph(
            g.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, g.shape)],
            [helper.make_tensor_value_info(o, kind, None) for o, kind in outputs.items()],
            g.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def _choice(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def _steps(self, x: Tensor) -> list[Any]:
        if not x.quantized:
            return [self._quantize] * 4 + [self._relu, self._clip, self._scale, self._rounding]
        steps = [self._relu, self._clip, self._scalar, self._rounding, self._quantize]
        steps += [self._add, self._add, self._concat]
        if len(x.shape) == 4:
            return [*steps, *[self._conv] * 6, self._max_pool, self._average, self._flatten]
        return [*steps, *[self._dense] * 3]

    def _power(self, low: int = -3, high: int = 1) -> float:
        return float(2.0 ** self.rng.integers(low, high + 1))

    def _value(self, x: Any) -> str:
        return str(self.graph.const(np.asarray(x, np.float32)))

    def _channels(self, x: Tensor, values: Any) -> str:
        shape = [1] * len(x.shape)
        shape[1] = x.shape[1]
        return self._value(np.asarray(values, np.float32).reshape(shape))

    def _quantize(self, x: Tensor) -> Tensor:
        g, dtype = self.graph, str(self.rng.choice(["uint8", "int8"]))
        info = np.iinfo(dtype)
        zero = int(self.rng.choice([0, info.min, int(self.rng.integers(info.min, info.max + 1))]))
        name = x.name
        if self.rng.random() < 0.3:
            name = g.node("Relu", [name])
        elif self.rng.random() < 0.3:
            low = self.rng.integers(-6, 4) * 0.25
            high = low + self.rng.integers(0, 12) * 0.25
            name = g.node("Clip", [name, self._value(low), self._value(high)])
        scale, point = self._value(self._power(-2, 1)), g.const(np.dtype(dtype).type(zero))
        codes = g.node("QuantizeLinear", [name, scale, point])
        self.codes.append((codes, KINDS[dtype]))
        if self.rng.random() < 0.2 and len(x.shape) == 4:
            codes = g.node("MaxPool", [codes], kernel_shape=[3, 3], pads=[1] * 4)
            self.codes.append((codes, KINDS[dtype]))
        return Tensor(g.node("DequantizeLinear", [codes, scale, point]), x.shape, True)

    def _relu(self, x: Tensor) -> Tensor:
        return Tensor(self.graph.node("Relu", [x.name]), x.shape, x.quantized)

    def _clip(self, x: Tensor) -> Tensor:
        low = self.rng.integers(-6, 4) * 0.375
        bounds = [self._value(low), self._value(low + self.rng.integers(0, 20) * 0.25)]
        return Tensor(self.graph.node("Clip", [x.name, *bounds]), x.shape, x.quantized)

    def _scale(self, x: Tensor) -> Tensor:
        factors = self.rng.choice([-2.0, -0.5, 0.0, 0.5, 1.0, 2.0], x.shape[1])
        if self.rng.random() < 0.5:
            factors = np.abs(factors)
        offsets = self.rng.integers(-8, 9, x.shape[1]) * 0.25
        scaled = self.graph.node("Mul", [x.name, self._channels(x, factors)])
        return Tensor(self.graph.node("Add", [scaled, self._channels(x, offsets)]), x.shape)

    def _scalar(self, x: Tensor) -> Tensor:
        op = str(self.rng.choice(["Mul", "Div", "Add", "Sub"]))
        number = float(self.rng.choice([-1.0, 0.25, 0.5, 1.0, 2.0, 4.0]))
        return Tensor(self.graph.node(op, [x.name, self._value(number)]), x.shape, x.quantized)

    def _rounding(self, x: Tensor) -> Tensor:
        low = int(self.rng.integers(-4, 3))
        bounds = [self._value(low), self._value(low + int(self.rng.choice([1, 3, 15])))]
        clipped = self.graph.node("Clip", [x.name, *bounds])
        name = self.graph.node(str(self.rng.choice(["Round", "Floor", "Ceil"])), [clipped])
        if self.rng.random() < 0.5:
            name = self.graph.node("Add", [name, self._value(self.rng.integers(-4, 5) * 0.5)])
        return Tensor(name, x.shape, True)

    def _weights(self, shape: list[int]) -> str:
        # Integer weights hold both ends of their range, so they need two elements.
        g, kind = self.graph, int(self.rng.integers(5)) if np.prod(shape) > 1 else 4
        if kind == 0:
            return str(g.weights(shape, -2, 1, self._power()))
        if kind == 1:
            scales = 2.0 ** self.rng.integers(-3, 1, shape[0])
            return str(g.weights(shape, -8, 7, scales, zero=self.rng.integers(-9, 9, shape[0])))
        if kind == 2:
            return str(g.weights(shape, -3, 3, 0.25, step=2))
        if kind == 3:
            return str(g.float_weights(self.rng.choice([-0.5, 0.5], shape)))
        factors = 2.0 ** self.rng.integers(-2, 1, [shape[0]] + [1] * (len(shape) - 1))
        return str(g.float_weights(self.rng.integers(-4, 5, shape) * factors))

    def _conv(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        groups = int(self._choice([1, 1, c] + ([2] if c % 2 == 0 else [])))
        out = groups * int(self.rng.integers(1, 5)) if groups < c else c
        kernel = [int(min(self.rng.integers(1, 4), n)) for n in x.shape[2:]]
        pads = [int(self.rng.integers(0, k)) for k in (*kernel, *kernel)]
        strides = [int(v) for v in self.rng.integers(1, 3, 2)]
        weights = self._weights([out, c // groups, *kernel])
        bias = self.graph.bias(out) if self.rng.random() < 0.5 else None
        name = self.graph.conv(x.name, weights, bias, group=groups, pads=pads, strides=strides)
        size = [
            (n + pads[i] + pads[i + 2] - k) // s + 1
            for i, (n, k, s) in enumerate(zip(x.shape[2:], kernel, strides, strict=True))
        ]
        return Tensor(name, (x.shape[0], out, *size))

    def _dense(self, x: Tensor) -> Tensor:
        out = int(self.rng.integers(1, 9))
        if self.rng.random() < 0.5:
            name = self.graph.node("Gemm", [x.name, self._weights([out, x.shape[1]])], transB=1)
        else:
            turned = self.graph.node("Transpose", [self._weights([out, x.shape[1]])], perm=[1, 0])
            name = self.graph.node("MatMul", [x.name, turned])
        return Tensor(name, (x.shape[0], out))

    def _max_pool(self, x: Tensor) -> Tensor:
        name = self.graph.node("MaxPool", [x.name], kernel_shape=[3, 3], pads=[1] * 4)
        return Tensor(name, x.shape, x.quantized)

    def _average(self, x: Tensor) -> Tensor:
        attrs = {"kernel_shape": [2, 2], "pads": [1] * 4, "count_include_pad": 1}
        shape = (*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
        return Tensor(self.graph.node("AveragePool", [x.name], **attrs), shape)

    def _flatten(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], int(np.prod(x.shape[1:])))
        return Tensor(self.graph.node("Flatten", [x.name]), shape, x.quantized)

    def _add(self, x: Tensor) -> Tensor:
        fitting = [t for t in self.tensors if t.shape == x.shape and t.quantized]
        other = self._choice(fitting) if fitting else x
        return Tensor(self.graph.node("Add", [x.name, other.name]), x.shape)

    def _concat(self, x: Tensor) -> Tensor:
        fitting = [t for t in self.tensors if t.shape == x.shape and t.quantized]
        other = self._choice(fitting) if fitting else x
        name = self.graph.node("Concat", [x.name, other.name], axis=1)
        return Tensor(name, (x.shape[0], 2 * x.shape[1], *x.shape[2:]), x.quantized)
