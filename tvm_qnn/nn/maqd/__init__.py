"""MaQD: M-state weights and activations, layer-batch normalization; layers, networks, export."""

from tvm_qnn.nn.maqd.layers import (
    FixedQuantizer,
    LayerBatchNorm,
    LayerBatchNorm2d,
    MaqdActivation,
    MaqdConv2d,
    MaqdLinear,
    RoundClip,
)

__all__ = [
    "FixedQuantizer",
    "LayerBatchNorm",
    "LayerBatchNorm2d",
    "MaqdActivation",
    "MaqdConv2d",
    "MaqdLinear",
    "RoundClip",
]
