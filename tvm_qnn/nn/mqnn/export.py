"""Export of MQNN networks to standard ONNX: a codebook and indices for every weight.

A weight is ``Gather(codebook, indices)``, or ``GatherElements`` where channels have codebooks of
their own; indices are stored as uint8. Levels stay the float32 numbers that were trained.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from tvm_qnn.nn.export import Description, Graph
from tvm_qnn.nn.maqd.layers import FixedQuantizer
from tvm_qnn.nn.mqnn.activation import UnsignedActivation
from tvm_qnn.nn.mqnn.layers import MaryWeight
from tvm_qnn.nn.mqnn.network import MqnnNet, weight_memory

SOURCE = (
    "MQNN (ICME 2020), reconstructed from its abstract and secondary descriptions; "
    "no number of the paper is claimed. Assumptions: see tvm_qnn/nn/mqnn/layers.py."
)


class MqnnGraph(Graph):
    """A graph of MQNN layers."""

    def weight(self, name: str, layer: MaryWeight) -> str:
        """Codebook, indices and their lookup, or a float initializer in full precision."""
        if layer.how is None:
            return self.constant(name, layer.weight.detach().numpy())
        with torch.no_grad():
            book, index = layer.codebook().numpy(), layer.index().numpy().astype(np.uint8)
        shape, rows = index.shape, len(book)
        if rows > 1:
            index = index.reshape(rows, -1)
        table = self.constant(f"{name}_codebook", book if rows > 1 else book[0])
        stored = self.constant(f"{name}_indices", index)
        wide = self.node("Cast", f"{name}_cast", [stored], to=TensorProto.INT32)
        if rows == 1:
            return self.node("Gather", f"{name}_lookup", [table, wide])
        found = self.node("GatherElements", f"{name}_lookup", [table, wide], axis=1)
        sizes = self.constant(f"{name}_shape", np.array(shape, np.int64))
        return self.node("Reshape", f"{name}_reshape", [found, sizes])

    def activation(self, name: str, x: str, layer: nn.Module) -> str:
        """Quantize/dequantize, with a clip before it where there are fewer than 8 bits; or relu."""
        if isinstance(layer, FixedQuantizer):
            return self.quantize(name, x, layer.scale)
        if isinstance(layer, nn.Identity):
            return x
        if not isinstance(layer, UnsignedActivation):
            return self.node("Relu", f"{name}_relu", [x])
        step = layer.step().detach().numpy()[0]
        if layer.bits < 8:
            x = self.clip(name, x, layer.largest_code * step)
        return self.quantize(name, x, step)


def to_onnx(net: MqnnNet, batch: int = 1) -> onnx.ModelProto:
    """Build the ONNX model of a trained network.

    Nodes are named after the network's parts: ``image_quantize``, ``conv1`` (its weight
    ``conv1_weight_lookup``), ``norm1``, ``activation1_quantize``, ..., ``pool``,
    ``pooled_quantize``, ``linear``.

    Args:
        net: Network; its running statistics are used whether or not it is in eval mode.
        batch: Fixed batch size N.

    Returns:
        Checked model: input ``image`` ``[N, C, S, S]`` float32 in [0, 1], output ``logits``
        ``[N, classes]`` float32; opset 21.

    Raises:
        ModelError: The batch size is not positive.
    """
    cfg, graph = net.cfg, MqnnGraph()
    x = graph.activation("image", "image", net.image)
    for number, block in enumerate(net.each_block(), start=1):
        weight = graph.weight(f"conv{number}_weight", block.conv)
        x = graph.convolution(f"conv{number}", x, weight, block.conv)
        norm = block.norm
        x = graph.batch_norm(f"norm{number}", x, norm.weight, norm, norm.eps)
        x = graph.activation(f"activation{number}", x, block.activation)
        if block.pool > 1:
            sizes = [block.pool] * 2
            x = graph.node("MaxPool", f"maxpool{number}", [x], kernel_shape=sizes, strides=sizes)
    x = graph.activation("pooled", graph.pooled(x), net.pooled)
    bias = graph.constant("linear_bias", net.linear.bias.detach().numpy())
    weight = graph.weight("linear_weight", net.linear)
    graph.node("Gemm", "linear", [x, weight, bias], output="logits", transB=1)

    size = cfg.image_size
    return graph.model("mqnn", [batch, cfg.image_channels, size, size], [batch, cfg.classes])


def describe(net: MqnnNet) -> Description:
    """Say what the zoo says about a trained network."""
    cfg, memory = net.cfg, weight_memory(net)
    widths = ", ".join(
        f"{channels}/{stride}" for channels, stride in zip(cfg.channels, cfg.strides, strict=True)
    )
    options = [f"--states {cfg.states}"]
    options += ["--thresholds learned"] if cfg.thresholds == "learned" else []
    options += ["--per-channel"] if cfg.per_channel else []
    if cfg.states:
        options += [
            f"--activation-bits {cfg.activation_bits}",
            "--pretrained FULL (before it: tvm-qnn train mqnn --data DIR --out FULL --states 0)",
        ]
    owner = "channel" if cfg.per_channel else "layer"
    return Description(
        weights=f"{cfg.states} free values a {owner}, every layer" if cfg.states else "float32",
        activations=(
            f"{cfg.activation_bits} bits; 8 bits at the image and after the pool"
            if cfg.activation_bits
            else "float32"
        ),
        text=(
            f"MQNN network: 3x3 convolutions (channels/stride {widths}), batch normalization, "
            "global average pool, linear; codebook weights by standard ONNX Gather"
        ),
        source=SOURCE,
        command="mqnn",
        options=" ".join(options),
        checks={
            "packed_weight_bytes": memory.packed,
            "ideal_weight_bytes": memory.ideal,
            "float_weight_bytes": memory.full,
        },
        tolerance=1e-3,
    )
