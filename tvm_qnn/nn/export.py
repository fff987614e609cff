"""Building standard ONNX models of trained networks, and writing them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tvm_qnn._version import __version__
from tvm_qnn.errors import ModelError
from tvm_qnn.nn.networks import config

OPSET = 21
IR_VERSION = 10
EXPORTERS = {
    "maqd": "tvm_qnn.nn.maqd.export",
    "maqd-vgg": "tvm_qnn.nn.maqd.network_export",
    "maqd-resnet": "tvm_qnn.nn.maqd.network_export",
    "mqnn": "tvm_qnn.nn.mqnn.export",
}
"""Module of every kind of network with ``to_onnx(net, batch)`` and ``describe(net)``."""


@dataclass(frozen=True)
class Description:
    """What the zoo says about a network.

    Attributes:
        weights: Description of the weights, such as "ternary (-1, 0, 1), every layer".
        activations: Description of the activations.
        text: One line about the model.
        source: The method, and what is known and assumed about it.
        command: The command of ``tvm-qnn train`` that makes this network.
        options: Its options.
        checks: Measured facts about the network, by name.
        tolerance: Part of the images whose label may depend on the order of float sums; 0 where
            all sums are integers.
    """

    weights: str
    activations: str
    text: str
    source: str
    command: str
    options: str
    checks: dict[str, float] = field(default_factory=dict)
    tolerance: float = 0.0


@dataclass
class Graph:
    """Nodes and initializers of a graph under construction; every method returns its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add an initializer."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, op: str, name: str, inputs: list[str], output: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output, called ``NAME_out`` unless ``output`` says otherwise."""
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def quantize(self, name: str, x: str, scale: float, dtype: str = "uint8") -> str:
        """QuantizeLinear with zero point 0 and DequantizeLinear with the same scale."""
        step = self.constant(f"{name}_scale", np.float32(scale))
        zero = self.constant(f"{name}_zero_point", np.dtype(dtype).type(0))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [x, step, zero])
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, step, zero])

    def convolution(self, name: str, x: str, weight: str, layer: Any) -> str:
        """Conv of a square kernel, with the stride and the padding of a layer."""
        return self.node(
            "Conv",
            name,
            [x, weight],
            kernel_shape=list(layer.weight.shape[2:]),
            pads=[layer.padding] * 4,
            strides=[layer.stride] * 2,
        )

    def batch_norm(
        self, name: str, x: str, gain: Tensor, layer: Any, epsilon: float, output: str = ""
    ) -> str:
        """BatchNormalization; one mean and variance of a whole layer serves all channels."""
        parts = {
            "gain": gain,
            "bias": layer.bias,
            "mean": layer.running_mean.expand(gain.shape),
            "variance": layer.running_var.expand(gain.shape),
        }
        names = [
            self.constant(f"{name}_{key}", value.detach().numpy()) for key, value in parts.items()
        ]
        return self.node("BatchNormalization", name, [x, *names], output, epsilon=epsilon)

    def clip(self, name: str, x: str, high: float) -> str:
        """Clip to 0 .. ``high``."""
        bounds = [
            self.constant(f"{name}_{end}", np.float32(value))
            for end, value in (("low", 0), ("high", high))
        ]
        return self.node("Clip", f"{name}_clip", [x, *bounds])

    def pooled(self, x: str) -> str:
        """Mean over height and width: ``[N, C]``."""
        return self.node("Flatten", "flatten", [self.node("GlobalAveragePool", "pool", [x])])

    def model(self, name: str, image: Sequence[int], logits: Sequence[int]) -> onnx.ModelProto:
        """Return the checked model with the input ``image`` and the output ``logits``, float32.

        Raises:
            ModelError: The batch size is not positive.
        """
        if image[0] < 1:
            raise ModelError(f"batch size {image[0]}: must be at least 1")
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
                [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
                self.initializers,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tvm-qnn",
            producer_version=__version__,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def to_onnx(net: nn.Module, batch: int = 1) -> onnx.ModelProto:
    """Build the ONNX model of a trained network, whichever kind it is.

    Args:
        net: Network; it is exported as in eval mode.
        batch: Fixed batch size N.

    Returns:
        Checked model: input ``image`` ``[N, C, H, W]`` float32 in [0, 1], output ``logits``
        ``[N, classes]`` float32.

    Raises:
        ModelError: The batch size is not positive, or the network has more states than ONNX has
            codes.
    """
    return cast("onnx.ModelProto", _exporter(net).to_onnx(net, batch))


def describe(net: nn.Module) -> Description:
    """Say what the zoo says about a trained network."""
    return cast("Description", _exporter(net).describe(net))


def _exporter(net: nn.Module) -> Any:
    return importlib.import_module(EXPORTERS[config(net).kind])


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
