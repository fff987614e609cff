"""Export of :class:`MaqdNet` to standard ONNX."""

from __future__ import annotations

import onnx

from tvm_qnn.nn.export import Description
from tvm_qnn.nn.maqd.graph import MaqdGraph, description
from tvm_qnn.nn.maqd.small import MaqdNet


def to_onnx(net: MaqdNet, batch: int = 1) -> onnx.ModelProto:
    """Build the ONNX model of a trained network.

    Nodes are named after the network's parts: ``image_quantize``, ``conv1`` (its weight
    ``conv1_weight_dequantize``), ``norm1``, ``activation1_clip``, ``activation1_quantize``, ...,
    ``pool``, ``pooled_quantize``, ``linear``, ``linear_norm``.

    Args:
        net: Network; its running statistics are used whether or not it is in eval mode.
        batch: Fixed batch size N.

    Returns:
        Checked model: input ``image`` ``[N, C, S, S]`` float32 in [0, 1], output ``logits``
        ``[N, classes]`` float32; opset 21.

    Raises:
        ModelError: The batch size is not positive, or a quantizer has more states than 8-bit codes.
    """
    cfg, graph = net.cfg, MaqdGraph()
    x = graph.quantize("image", "image", net.image.scale)
    for number, block in enumerate(net.each_block(), start=1):
        x = graph.norm(f"norm{number}", graph.conv(f"conv{number}", x, block.conv), block.norm)
        x = graph.states(f"activation{number}", x, block.activation.quantizer)
    graph.head(x, net.pooled, net.linear, net.norm)
    size = cfg.image_size
    return graph.model("maqd", [batch, cfg.image_channels, size, size], [batch, cfg.classes])


def describe(net: MaqdNet) -> Description:
    """Say what the zoo says about a trained network."""
    widths = ", ".join(
        f"{channels}/{stride}"
        for channels, stride in zip(net.cfg.channels, net.cfg.strides, strict=True)
    )
    return description(net, f"3x3 convolutions (channels/stride {widths})")
