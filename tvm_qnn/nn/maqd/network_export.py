"""Export of :class:`MaqdVgg` and :class:`MaqdResNet` to standard ONNX: quantize/dequantize pairs.

All scales between the image and the head are 1, so that every runtime computes the same integers.
The residual stream is int16 with the scale 1: the largest sum that the weights allow is checked to
fit, so that quantizing loses nothing.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import onnx
from torch import nn

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.export import Description
from tvm_qnn.nn.maqd.check import accumulators, rounding_margin
from tvm_qnn.nn.maqd.export import SOURCE, MaqdGraph
from tvm_qnn.nn.maqd.layers import LayerBatchNorm, MaqdConv2d, MaqdWeight
from tvm_qnn.nn.maqd.networks import (
    Head,
    ImageCodes,
    MaqdResNet,
    MaqdVgg,
    NormActivation,
    VggConfig,
)

INT16 = (-(1 << 15), (1 << 15) - 1)


class NetworkGraph(MaqdGraph):
    """A graph of the parts of :class:`MaqdVgg` and :class:`MaqdResNet`."""

    def codes(self, name: str, x: str, step: float, zero: int) -> str:
        """QuantizeLinear to uint8 and DequantizeLinear to the codes less ``zero``."""
        scale = self.constant(f"{name}_step", np.float32(step))
        none = self.constant(f"{name}_first", np.uint8(0))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [x, scale, none])
        one = self.constant(f"{name}_scale", np.float32(1))
        offset = self.constant(f"{name}_zero_point", np.uint8(zero))
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, one, offset])

    def conv(self, name: str, x: str, layer: MaqdConv2d) -> str:
        """Convolution of codes with weight codes."""
        return self.node(
            "Conv",
            name,
            [x, self.weight(f"{name}_weight", layer)],
            kernel_shape=list(layer.weight.shape[2:]),
            pads=[layer.padding] * 4,
            strides=[layer.stride] * 2,
        )

    def normalized(self, name: str, x: str, part: NormActivation) -> str:
        """Normalization, clip and quantizer; the result is codes less the zero point."""
        if isinstance(part.norm, nn.GroupNorm):
            raise ModelError(
                f"{name}: layer normalization takes its mean from the image, so that it is no map "
                "of an accumulator; export a network with 'layer-batch' or 'batch'"
            )
        x = self.norm(f"{name}_norm", x, cast("LayerBatchNorm | nn.BatchNorm2d", part.norm))
        quantizer = part.quantizer
        if quantizer.largest_code > 255:
            raise ModelError(
                f"{name}: {quantizer.states} activation states do not fit in uint8 codes; "
                "use at most 256 states"
            )
        low = self.constant(f"{name}_low", np.float32(0))
        high = self.constant(f"{name}_high", np.float32((quantizer.states - 1) * quantizer.step))
        return self.codes(
            name, self.node("Clip", f"{name}_clip", [x, low, high]), quantizer.step, part.zero
        )

    def head(self, x: str, head: Head) -> None:
        """Pool, linear layer and its normalization."""
        x = self.node("Flatten", "flatten", [self.node("GlobalAveragePool", "pool", [x])])
        x = self.quantize("pooled", x, cast("float", head.pooled.scale))
        weight = self.weight("linear_weight", cast("MaqdWeight", head.linear))
        x = self.node("Gemm", "linear", [x, weight], transB=1)
        self.norm("linear_norm", x, cast("LayerBatchNorm", head.norm), output="logits")


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
    cfg, graph = net.cfg, NetworkGraph()
    if cfg.precision == "float":
        raise ModelError("the full-precision twin has no codes to export; use precision='maqd'")
    x = graph.codes("image", "image", ImageCodes.scale, ImageCodes.zero)
    x = _plain(graph, net, x) if isinstance(net, MaqdVgg) else _residual(graph, net, x)
    graph.head(x, net.head)
    image = [batch, cfg.image_channels, cfg.image_size, cfg.image_size]
    return graph.model(cfg.kind, image, [batch, cfg.classes])


def _plain(graph: NetworkGraph, net: MaqdVgg, x: str) -> str:
    for number, block in enumerate(net.each_block(), start=1):
        x = graph.conv(f"conv{number}", x, cast("MaqdConv2d", block.conv))
        x = graph.normalized(f"activation{number}", x, cast("NormActivation", block.activation))
        if isinstance(block.pool, nn.MaxPool2d):
            x = graph.node("MaxPool", f"pool{number}", [x], kernel_shape=[2, 2], strides=[2, 2])
    return x


def _residual(graph: NetworkGraph, net: MaqdResNet, x: str) -> str:
    x = graph.conv("stem", x, cast("MaqdConv2d", net.stem))
    bounds = {item.name: item for item in accumulators(net)}
    for number, block in enumerate(net.each_block(), start=1):
        name = f"block{number}"
        first, second = (cast("NormActivation", a) for a in (block.activation1, block.activation2))
        h = graph.normalized(f"{name}_activation1", x, first)
        y = graph.conv(f"{name}_conv1", h, cast("MaqdConv2d", block.conv1))
        y = graph.normalized(f"{name}_activation2", y, second)
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
    return graph.normalized("activation", x, cast("NormActivation", net.activation))


def describe(net: MaqdVgg | MaqdResNet) -> Description:
    """Say what the zoo says about a trained network."""
    cfg = net.cfg
    names = {2: "binary (-1, 1)", 3: "ternary (-1, 0, 1)"}
    if isinstance(cfg, VggConfig):
        shape = "3x3 convolutions (" + ", ".join(
            f"{channels}{'/pool' if number in cfg.pools else ''}"
            for number, channels in enumerate(cfg.channels)
        )
    else:
        stages = ", ".join(str(channels) for channels in cfg.stages)
        shape = f"pre-activation residual blocks ({cfg.blocks} each of {stages} channels"
    return Description(
        weights=names.get(cfg.weight_states, f"{cfg.weight_states} states") + ", every layer",
        activations=(
            f"{cfg.activation_states} states (0..{cfg.activation_states - 1}); "
            "8 bits at the image and after the pool"
        ),
        text=(
            f"MaQD network: {shape}), layer-batch normalization, global average pool, linear; "
            "standard ONNX quantize/dequantize pairs"
        ),
        source=SOURCE,
        options=(
            f"--weight-states {cfg.weight_states} --activation-states {cfg.activation_states} "
            f"--first-states {cfg.first_states} --last-states {cfg.last_states}"
        ),
        checks={"smallest_rounding_margin_in_steps": rounding_margin(net)},
    )
