"""Networks of known shapes with random weights, for timing: what they compute means nothing.

Scales are powers of two, so ONNX Runtime without optimizations gives the same numbers to the bit;
``benchmarks.network`` checks that before it times anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.networks.models import Graph


def _scale(shape: Sequence[int], largest: int) -> float:
    """Return a power of two that keeps the sums of a layer in the range of the next codes."""
    return float(2.0 ** -round(np.log2(0.8 * largest * np.sqrt(np.prod(shape[1:])))))


def _weights(g: Graph, shape: Sequence[int], largest: int) -> str:
    return g.weights(shape, -largest, largest, _scale(shape, largest))


def _resnet(bits: int, size: int, stem: int, widths: Sequence[int], deep: int, out: int) -> Graph:
    """Residual network: 8-bit, or 2-bit (ternary weights, 4 states) behind the first layer.

    Args:
        bits: 8 or 2.
        size: of the images; those of 224 pixels are shrunk by a quarter at once.
        stem: side of the first kernel.
        widths: channels of each group; all but the first halve the image.
        deep: blocks of two convolutions in each group.
        out: classes.
    """
    g = Graph([1, 3, size, size])
    largest = 127 if bits == 8 else 1

    def act(x: str) -> str:
        return g.quantize(x, 0.25) if bits == 8 else g.limited(x, 4, 1.0)

    def conv(x: str, out: int, inner: int, size: int, stride: int) -> str:
        weights = _weights(g, [out, inner, size, size], largest)
        pads = [size // 2] * 4
        return g.conv(x, weights, g.bias(out), pads=pads, strides=[stride, stride])

    x = g.quantize("x", 0.03125, 128)
    channels = widths[0]
    first = _weights(g, [channels, 3, stem, stem], 127)
    strides, pads = [2 if size == 224 else 1] * 2, [stem // 2] * 4
    x = act(g.node("Relu", [g.conv(x, first, g.bias(channels), strides=strides, pads=pads)]))
    if size == 224:
        x = g.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width in widths:
        for block in range(deep):
            stride = 2 if width > widths[0] and block == 0 else 1
            y = act(g.node("Relu", [conv(x, width, channels, 3, stride)]))
            y = act(conv(y, width, width, 3, 1))
            shortcut = x if stride == 1 else act(conv(x, width, channels, 1, stride))
            x = act(g.node("Relu", [g.node("Add", [y, shortcut])]))
            channels = width
    x = g.node("Flatten", [g.node("GlobalAveragePool", [x])])
    x = g.quantize(x, 0.0625)
    g.out = g.node("Gemm", [x, _weights(g, [out, channels], largest), g.bias(out)], transB=1)
    return g


def resnet18(bits: int) -> Graph:
    """ResNet-18 for 224x224 images of 1000 classes."""
    return _resnet(bits, 224, 7, (64, 128, 256, 512), 2, 1000)


def resnet20(bits: int) -> Graph:
    """ResNet-20 for 32x32 images of 10 classes; its shortcuts are convolutions, too."""
    return _resnet(bits, 32, 3, (16, 32, 64), 3, 10)


def mobilenet_v2() -> Graph:
    """MobileNetV2 for 224x224 images, 8-bit: depthwise and pointwise convolutions."""
    g = Graph([1, 3, 224, 224])

    def conv(x: str, out: int, inner: int, size: int = 1, stride: int = 1, groups: int = 1) -> str:
        weights = _weights(g, [out, inner // groups, size, size], 127)
        pads, strides = [size // 2] * 4, [stride, stride]
        return g.conv(x, weights, g.bias(out), pads=pads, strides=strides, group=groups)

    def act(x: str) -> str:
        # Relu, not Clip at 6: quantizers are exported with a range that makes the bound redundant.
        return g.quantize(g.node("Relu", [x]), 0.03125)

    x = act(conv(g.quantize("x", 0.03125, 128), 32, 3, 3, 2))
    channels = 32
    for expand, out, count, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(count):
            stride, inner = first if block == 0 else 1, channels * expand
            y = x if expand == 1 else act(conv(x, inner, channels))
            y = act(conv(y, inner, inner, 3, stride, inner))
            y = g.quantize(conv(y, out, inner), 0.0625, 128)
            if stride == 1 and out == channels:
                y = g.quantize(g.node("Add", [y, x]), 0.0625, 128)
            x, channels = y, out
    x = act(conv(x, 1280, channels))
    x = g.quantize(g.node("Flatten", [g.node("GlobalAveragePool", [x])]), 0.03125)
    g.out = g.node("Gemm", [x, _weights(g, [1000, 1280], 127), g.bias(1000)], transB=1)
    return g


SHAPES: dict[str, tuple[Callable[[], Graph], Callable[[], Graph]]] = {
    "resnet18-w8a8": (lambda: resnet18(8), lambda: resnet18(8)),
    "resnet18-w2a2": (lambda: resnet18(2), lambda: resnet18(8)),
    "resnet20-w2a2": (lambda: resnet20(2), lambda: resnet20(8)),
    "mobilenetv2-w8a8": (mobilenet_v2, mobilenet_v2),
}
"""Networks by name, and what the peer runs: the same shapes in 8 bits, which it has kernels for."""
