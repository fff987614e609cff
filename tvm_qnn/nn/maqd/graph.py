"""ONNX graphs of MaQD layers: quantize/dequantize pairs, no operators of our own.

Integers stay integers in float32: weights and activations are dequantized with the scale 1, so that
every convolution sums integers and any correct runtime gives the same sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.export import Description, Graph
from tvm_qnn.nn.maqd.check import rounding_margin
from tvm_qnn.nn.maqd.layers import EPSILON, LayerBatchNorm, MaqdConv2d, MaqdWeight, RoundClip

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

    def conv(self, name: str, x: str, layer: MaqdConv2d) -> str:
        """Convolution of codes with weight codes."""
        return self.convolution(name, x, self.weight(f"{name}_weight", layer), layer)

    def norm(
        self, name: str, x: str, layer: LayerBatchNorm | nn.BatchNorm2d, output: str = ""
    ) -> str:
        """Layer-batch or batch normalization with its running statistics."""
        gain = layer.gain if isinstance(layer, LayerBatchNorm) else layer.weight
        return self.batch_norm(name, x, gain, layer, EPSILON, output)

    def codes(self, name: str, x: str, step: float, zero: int = 0) -> str:
        """QuantizeLinear to uint8 and DequantizeLinear to the codes less ``zero``."""
        scale = self.constant(f"{name}_step", np.float32(step))
        none = self.constant(f"{name}_first", np.uint8(0))
        codes = self.node("QuantizeLinear", f"{name}_quantize", [x, scale, none])
        one = self.constant(f"{name}_scale", np.float32(1))
        offset = self.constant(f"{name}_zero_point", np.uint8(zero))
        return self.node("DequantizeLinear", f"{name}_dequantize", [codes, one, offset])

    def states(self, name: str, x: str, quantizer: RoundClip, zero: int = 0) -> str:
        """Clip, which bounds the codes to 0 .. M-1, and quantizer; codes less ``zero``."""
        if quantizer.largest_code > 255:
            raise ModelError(
                f"{name}: {quantizer.states} activation states do not fit in uint8 codes; "
                "use at most 256 states"
            )
        x = self.clip(name, x, (quantizer.states - 1) * quantizer.step)
        return self.codes(name, x, quantizer.step, zero)

    def head(self, x: str, pooled: Any, linear: MaqdWeight, norm: LayerBatchNorm) -> None:
        """Mean over the image, linear layer and its normalization: the output ``logits``."""
        x = self.quantize("pooled", self.pooled(x), pooled.scale)
        x = self.node("Gemm", "linear", [x, self.weight("linear_weight", linear)], transB=1)
        self.norm("linear_norm", x, norm, output="logits")


def description(net: Any, shape: str, options: str = "") -> Description:
    """Say what the zoo says about a trained network.

    Args:
        net: The network.
        shape: What its layers are.
        options: Options of ``tvm-qnn train maqd`` that make it, beside the states.
    """
    cfg = net.cfg
    return Description(
        weights=_weights(net),
        activations=(
            f"{cfg.activation_states} states (0..{cfg.activation_states - 1}); "
            "8 bits at the image and after the pool"
        ),
        text=(
            f"MaQD network: {shape}, layer-batch normalization, global average pool, linear; "
            "standard ONNX quantize/dequantize pairs"
        ),
        source=SOURCE,
        command="maqd",
        options=(
            f"{options}--weight-states {cfg.weight_states} "
            f"--activation-states {cfg.activation_states}"
        ),
        checks={"smallest_rounding_margin_in_steps": rounding_margin(net)},
    )


def _weights(net: Any) -> str:
    """Say how many states weights have, and in which layers others."""
    layers = [module.quantizer.states for module in net.modules() if isinstance(module, MaqdWeight)]
    first, last, most = layers[0], layers[-1], net.cfg.weight_states
    names = {2: "binary (-1, 1)", 3: "ternary (-1, 0, 1)"}
    text = names.get(most, f"{most} states")
    if first == last != most:
        return f"{text}, first and last layer {first} states"
    others = [
        f"{place} layer {states} states"
        for states, place in ((first, "first"), (last, "last"))
        if states != most
    ]
    return ", ".join([text, *(others or ["every layer"])])
