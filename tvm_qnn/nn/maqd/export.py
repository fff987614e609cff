"""Export of MaQD networks to standard ONNX: quantize/dequantize pairs, no operators of our own.

Integers stay integers in float32: weights and activations are dequantized with the scale 1, so that
every convolution after the first sums integers and any correct runtime gives the same sums.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.export import Description, Graph
from tvm_qnn.nn.maqd.check import rounding_margin
from tvm_qnn.nn.maqd.layers import EPSILON, LayerBatchNorm, MaqdActivation, MaqdWeight
from tvm_qnn.nn.maqd.small import MaqdNet

SOURCE = (
    "MaQD (arXiv 2403.14999), reconstructed from its abstract and secondary descriptions; "
    "no number of the paper is claimed. Assumptions: see tvm_qnn/nn/maqd/layers.py."
)


class MaqdGraph(Graph):
    """A graph of MaQD layers."""

    def weight(self, name: str, layer: MaqdWeight) -> str:
        """int8 weight codes and their DequantizeLinear."""
        with torch.no_grad():
            codes = layer.weight_codes().numpy()
        if layer.quantizer.largest_code > 127:
            raise ModelError(
                f"{name}: {layer.quantizer.states} weight states do not fit in int8 codes; "
                "use at most 128 states, or an odd number up to 255"
            )
        parts = [
            self.constant(f"{name}_codes", codes.astype(np.int8)),
            self.constant(f"{name}_scale", np.float32(1)),
            self.constant(f"{name}_zero_point", np.int8(0)),
        ]
        return self.node("DequantizeLinear", f"{name}_dequantize", parts)

    def norm(
        self, name: str, x: str, layer: LayerBatchNorm | nn.BatchNorm2d, output: str = ""
    ) -> str:
        """BatchNormalization; in layer-batch norm all channels share one mean and variance."""
        gain: Tensor = layer.gain if isinstance(layer, LayerBatchNorm) else layer.weight
        statistics = cast("tuple[Tensor, Tensor]", (layer.running_mean, layer.running_var))
        parts: dict[str, Tensor] = {"gain": gain, "bias": layer.bias}
        for key, value in zip(("mean", "variance"), statistics, strict=True):
            parts[key] = value.expand(gain.shape)
        names = [
            self.constant(f"{name}_{key}", value.detach().numpy()) for key, value in parts.items()
        ]
        return self.node("BatchNormalization", name, [x, *names], output, epsilon=EPSILON)

    def activation(self, name: str, x: str, layer: MaqdActivation) -> str:
        """Clip and quantize/dequantize: the clip bounds the codes to 0 .. M-1."""
        quantizer = layer.quantizer
        if quantizer.largest_code > 255:
            raise ModelError(
                f"{name}: {quantizer.states} activation states do not fit in uint8 codes; "
                "use at most 256 states"
            )
        low = self.constant(f"{name}_low", np.float32(0))
        high = self.constant(f"{name}_high", np.float32((quantizer.states - 1) * quantizer.step))
        clipped = self.node("Clip", f"{name}_clip", [x, low, high])
        step = self.constant(f"{name}_step", np.float32(quantizer.step))
        zero = self.constant(f"{name}_zero_point", np.uint8(0))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [clipped, step, zero])
        one = self.constant(f"{name}_scale", np.float32(1))
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, one, zero])


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
        conv = block.conv
        x = graph.node(
            "Conv",
            f"conv{number}",
            [x, graph.weight(f"conv{number}_weight", conv)],
            kernel_shape=list(conv.weight.shape[2:]),
            pads=[conv.padding] * 4,
            strides=[conv.stride] * 2,
        )
        x = graph.norm(f"norm{number}", x, block.norm)
        x = graph.activation(f"activation{number}", x, block.activation)
    x = graph.node("Flatten", "flatten", [graph.node("GlobalAveragePool", "pool", [x])])
    x = graph.quantize("pooled", x, net.pooled.scale)
    x = graph.node("Gemm", "linear", [x, graph.weight("linear_weight", net.linear)], transB=1)
    graph.norm("linear_norm", x, net.norm, output="logits")

    size = cfg.image_size
    return graph.model("maqd", [batch, cfg.image_channels, size, size], [batch, cfg.classes])


def describe(net: MaqdNet) -> Description:
    """Say what the zoo says about a trained network."""
    cfg = net.cfg
    names = {2: "binary (-1, 1)", 3: "ternary (-1, 0, 1)"}
    widths = ", ".join(
        f"{channels}/{stride}" for channels, stride in zip(cfg.channels, cfg.strides, strict=True)
    )
    return Description(
        weights=names.get(cfg.weight_states, f"{cfg.weight_states} states") + ", every layer",
        activations=(
            f"{cfg.activation_states} states (0..{cfg.activation_states - 1}); "
            "8 bits at the image and after the pool"
        ),
        text=(
            f"MaQD network: 3x3 convolutions (channels/stride {widths}), layer-batch "
            "normalization, global average pool, linear; standard ONNX quantize/dequantize pairs"
        ),
        source=SOURCE,
        options=(
            f"--weight-states {cfg.weight_states} --activation-states {cfg.activation_states}"
        ),
        checks={"smallest_rounding_margin_in_steps": rounding_margin(net)},
    )
