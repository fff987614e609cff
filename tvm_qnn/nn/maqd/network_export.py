"""Export of :class:`MaqdVgg` and :class:`MaqdResNet` to standard ONNX: quantize/dequantize pairs.

All scales between the image and the head are 1, so that every runtime computes the same integers.
The residual stream is int16 with the scale 1: the largest sum that the weights allow is checked to
fit, so that quantizing loses nothing.
"""

from __future__ import annotations

from typing import cast

import onnx
from torch import nn

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.export import Description
from tvm_qnn.nn.maqd.check import accumulators
from tvm_qnn.nn.maqd.graph import MaqdGraph, description
from tvm_qnn.nn.maqd.layers import LayerBatchNorm, MaqdConv2d, MaqdWeight
from tvm_qnn.nn.maqd.networks import (
    ImageCodes,
    MaqdResNet,
    MaqdVgg,
    NormActivation,
    VggConfig,
)

INT16 = (-(1 << 15), (1 << 15) - 1)


def to_onnx(net: MaqdVgg | MaqdResNet, batch: int = 1) -> onnx.ModelProto:
    """Build the ONNX model of a trained network.

    Nodes are named after the network's parts: ``image_quantize``, ``conv1`` (its weight
    ``conv1_weight_dequantize``), ``activation1_norm``, ``activation1_quantize``, ``pool1``, ... for
    :class:`MaqdVgg`; ``stem``, ``block1_conv1``, ``block1_activation2_quantize``, ``block1_add``,
    ``stream1_quantize``, ... for :class:`MaqdResNet`.

    Args:
        net: Network with quantized layers; its running statistics are used.
        batch: Fixed batch size N.

    Raises:
        ModelError: The network is the full-precision twin or has layer normalization, the batch
            size is not positive, a quantizer has more states than 8-bit codes, or a residual sum
            could leave int16.
    """
    cfg, graph = net.cfg, MaqdGraph()
    if cfg.precision == "float":
        raise ModelError("the full-precision twin has no codes to export; use precision='maqd'")
    x = graph.codes("image", "image", ImageCodes.scale, ImageCodes.zero)
    x = _plain(graph, net, x) if isinstance(net, MaqdVgg) else _residual(graph, net, x)
    head = net.head
    graph.head(x, head.pooled, cast("MaqdWeight", head.linear), cast("LayerBatchNorm", head.norm))
    image = [batch, cfg.image_channels, cfg.image_size, cfg.image_size]
    return graph.model(cfg.kind, image, [batch, cfg.classes])


def _plain(graph: MaqdGraph, net: MaqdVgg, x: str) -> str:
    for number, block in enumerate(net.each_block(), start=1):
        x = graph.conv(f"conv{number}", x, cast("MaqdConv2d", block.conv))
        x = _activation(graph, f"activation{number}", x, block.activation)
        if isinstance(block.pool, nn.MaxPool2d):
            x = graph.node("MaxPool", f"pool{number}", [x], kernel_shape=[2, 2], strides=[2, 2])
    return x


def _residual(graph: MaqdGraph, net: MaqdResNet, x: str) -> str:
    x = graph.conv("stem", x, cast("MaqdConv2d", net.stem))
    bounds = {item.name: item for item in accumulators(net)}
    for number, block in enumerate(net.each_block(), start=1):
        name = f"block{number}"
        h = _activation(graph, f"{name}_activation1", x, block.activation1)
        y = graph.conv(f"{name}_conv1", h, cast("MaqdConv2d", block.conv1))
        y = _activation(graph, f"{name}_activation2", y, block.activation2)
        y = graph.conv(f"{name}_conv2", y, cast("MaqdConv2d", block.conv2))
        if block.shortcut is not None:
            x = graph.conv(f"{name}_shortcut", h, cast("MaqdConv2d", block.shortcut))
            x = graph.quantize(f"{name}_shortcut_sum", x, 1.0, "int16")
        after = f"block{number + 1}_activation1"
        bound = bounds.get(after, bounds["activation"])
        if bound.low.min() < INT16[0] or bound.high.max() > INT16[1]:
            raise ModelError(
                f"{name}: its residual sums may reach {bound.low.min():.0f} ... "
                f"{bound.high.max():.0f}, which int16 does not hold; use fewer states, channels or "
                "blocks"
            )
        y = graph.quantize(f"{name}_sum", y, 1.0, "int16")
        x = graph.node("Add", f"{name}_add", [y, x])
        x = graph.quantize(f"stream{number}", x, 1.0, "int16")
    return _activation(graph, "activation", x, net.activation)


def describe(net: MaqdVgg | MaqdResNet) -> Description:
    """Say what the zoo says about a trained network."""
    cfg = net.cfg
    if isinstance(cfg, VggConfig):
        options = f"--network vgg --channels {','.join(str(c) for c in cfg.channels)} "
        shape = "3x3 convolutions (" + ", ".join(
            f"{channels}{'/pool' if number in cfg.pools else ''}"
            for number, channels in enumerate(cfg.channels)
        )
    else:
        options = "--network resnet "
        stages = ", ".join(str(channels) for channels in cfg.stages)
        shape = f"pre-activation residual blocks ({cfg.blocks} each of {stages} channels"
    options += f"--first-states {cfg.first_states} --last-states {cfg.last_states} "
    return description(net, f"{shape})", options)


def _activation(graph: MaqdGraph, name: str, x: str, part: nn.Module) -> str:
    """Normalization, clip and quantizer; the result is codes less the zero point."""
    part = cast("NormActivation", part)
    if isinstance(part.norm, nn.GroupNorm):
        raise ModelError(
            f"{name}: layer normalization takes its mean from the image, so that it is no map "
            "of an accumulator; export a network with 'layer-batch' or 'batch'"
        )
    norm = cast("LayerBatchNorm | nn.BatchNorm2d", part.norm)
    return graph.states(name, graph.norm(f"{name}_norm", x, norm), part.quantizer, part.zero)
