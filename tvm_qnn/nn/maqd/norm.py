"""Normalizations to compare layer-batch normalization with, and the choice between them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from tvm_qnn.nn.maqd.layers import EPSILON, LayerBatchNorm2d

Normalization = Literal["layer-batch", "batch", "layer"]
"""Which values share a mean and a variance: all, those of a channel, or those of an image."""


class LayerNorm2d(nn.GroupNorm):
    """Layer normalization of ``[N, C, H, W]``: one mean and one variance for each image.

    Gain and bias per channel, as in the other normalizations. The statistics are those of the
    image in inference, too, so that no fixed map of the accumulators stands for it: a network with
    it cannot be exported.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=EPSILON)

    def forward(self, z: Tensor) -> Tensor:
        """Normalize every image."""
        return super().forward(z)


def normalization(kind: Normalization, channels: int) -> nn.Module:
    """Return a new normalization of ``[N, channels, H, W]`` with gain and bias per channel.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "layer-batch":
        return LayerBatchNorm2d(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=EPSILON)
    if kind == "layer":
        return LayerNorm2d(channels)
    raise ValueError(f"norm must be 'layer-batch', 'batch' or 'layer', got {kind!r}")
