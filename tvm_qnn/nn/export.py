"""Export of trained networks to standard ONNX: quantize/dequantize pairs, no operators of our own.

Integers stay integers in float32: with M_w = 3 and M_a = 4 both scales are 1, so that every
convolution after the first sums small integers and any correct runtime gives the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tvm_qnn._version import __version__
from tvm_qnn.errors import ModelError
from tvm_qnn.nn.maqd import EPSILON, LayerBatchNorm, MaqdActivation, MaqdConv2d, MaqdLinear
from tvm_qnn.nn.models import MaqdNet

OPSET = 21
IR_VERSION = 10


@dataclass
class Graph:
    """Nodes and initializers of a graph under construction; every method returns its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Store a constant."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, op: str, name: str, inputs: list[str], output: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output."""
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def quantize(self, name: str, x: str, scale: float) -> str:
        """QuantizeLinear to uint8 with zero point 0 and DequantizeLinear with the same scale."""
        step = self.constant(f"{name}_scale", np.float32(scale))
        zero = self.constant(f"{name}_zero_point", np.uint8(0))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [x, step, zero])
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, step, zero])

    def weight(self, name: str, layer: MaqdConv2d | MaqdLinear) -> str:
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
            self.constant(f"{name}_scale", np.float32(layer.quantizer.unit)),
            self.constant(f"{name}_zero_point", np.int8(0)),
        ]
        return self.node("DequantizeLinear", f"{name}_dequantize", parts)

    def norm(self, name: str, x: str, layer: LayerBatchNorm, output: str = "") -> str:
        """Layer-batch norm as BatchNormalization whose channels share one mean and variance."""
        channels = layer.gain.shape
        parts = {
            "gain": layer.gain,
            "bias": layer.bias,
            "mean": layer.running_mean.expand(channels),
            "variance": layer.running_var.expand(channels),
        }
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
        return self.quantize(name, clipped, quantizer.step)


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
    if batch < 1:
        raise ModelError(f"batch size {batch}: must be at least 1")
    cfg, graph = net.cfg, Graph()
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
    image = [batch, cfg.image_channels, size, size]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "maqd",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, cfg.classes])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tvm-qnn",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write an ONNX file.

    Raises:
        ModelError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot write the model ({error.strerror})") from error
