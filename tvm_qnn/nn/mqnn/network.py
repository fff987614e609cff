"""Networks with M-ary weights: plain stacks of 3x3 convolutions for small images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.maqd.layers import EPSILON, FixedQuantizer
from tvm_qnn.nn.mqnn.activation import UnsignedActivation
from tvm_qnn.nn.mqnn.layers import (
    TEMPERATURE,
    Mary,
    MaryConv2d,
    MaryLinear,
    MaryWeight,
    Thresholds,
    WeightGradient,
)


@dataclass(frozen=True)
class MqnnConfig:
    """Shape of a :class:`MqnnNet`; the default is the network for 28x28 grey images.

    Attributes:
        image_size: Height and width of the square input image, in pixels.
        image_channels: Channels of the input image.
        channels: Output channels of every convolution.
        strides: Stride of every convolution, as long as ``channels``.
        pools: Size and stride of the maximum pool behind every block, 1 for none; empty for none
            at all.
        classes: Number of logits.
        states: M of every layer, 2 to 16; 0 keeps the weights in full precision.
        thresholds: How the partitions are found, see :class:`Mary`.
        per_channel: Whether every output channel has levels of its own.
        weight_gradient: Gradient of the latent weights, see :class:`Mary`.
        scale_level_gradient: Whether a level's gradient is divided by ``sqrt(n_m M)``.
        activation_bits: Bits of the activations after every convolution, 1 to 8; 0 means relu
            without any quantization.
        quantized_ends: Whether the first convolution and the linear layer are M-ary too.
    """

    kind: ClassVar[str] = "mqnn"
    image_size: int = 28
    image_channels: int = 1
    channels: tuple[int, ...] = (32, 32, 64, 64)
    strides: tuple[int, ...] = (2, 1, 2, 1)
    pools: tuple[int, ...] = ()
    classes: int = 10
    states: int = 3
    thresholds: Thresholds = "lloyd"
    per_channel: bool = False
    weight_gradient: WeightGradient = "straight-through"
    scale_level_gradient: bool = False
    activation_bits: int = 8
    quantized_ends: bool = True

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ValueError(
                f"one stride a convolution: {len(self.channels)} channel counts, "
                f"{len(self.strides)} strides"
            )
        if self.pools and len(self.pools) != len(self.channels):
            raise ValueError(
                f"one pool a convolution, or none: {len(self.channels)} channel counts, "
                f"{len(self.pools)} pools"
            )

    @property
    def mary(self) -> Mary | None:
        """Options of a quantized layer; None in full precision."""
        if not self.states:
            return None
        return Mary(
            self.states,
            self.thresholds,
            self.per_channel,
            self.weight_gradient,
            self.scale_level_gradient,
        )

    def full_precision(self) -> MqnnConfig:
        """The same network with float weights and activations."""
        default = MqnnConfig()
        return replace(
            self,
            states=0,
            activation_bits=0,
            thresholds=default.thresholds,
            per_channel=default.per_channel,
            weight_gradient=default.weight_gradient,
            scale_level_gradient=default.scale_level_gradient,
            quantized_ends=default.quantized_ends,
        )

    def build(self) -> MqnnNet:
        """Return a new network."""
        return MqnnNet(self)


CIFAR = MqnnConfig(
    image_size=32,
    image_channels=3,
    channels=(32, 64, 128, 128),
    strides=(1, 1, 1, 1),
    pools=(2, 2, 1, 1),
)
"""The network for 32x32 colour images, 20 million multiplications an image."""


# What quantizes starts from the weights, not from another network.
_QUANTIZING = ("levels", "first", "gaps", "unit", "scale", "started")


class MqnnBlock(nn.Module):
    """3x3 convolution, batch normalization, activation, and a maximum pool where there is one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        pool: int,
        how: Mary | None,
        bits: int,
    ) -> None:
        super().__init__()
        self.conv = MaryConv2d(in_channels, out_channels, stride=stride, how=how)
        self.norm = nn.BatchNorm2d(out_channels, eps=EPSILON)
        self.activation: nn.Module = UnsignedActivation(bits) if bits else nn.ReLU()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, out_channels, H', W']``, smaller by stride and pool."""
        x = cast("Tensor", self.activation(self.norm(self.conv(x))))
        return functional.max_pool2d(x, self.pool) if self.pool > 1 else x


class MqnnNet(nn.Module):
    """Plain convolutional network: blocks, global average pool, linear layer.

    Image ``[N, image_channels, S, S]`` float32 in [0, 1]; logits ``[N, classes]``. With quantized
    activations the image enters as its 8-bit values (scale 1/255) and the pooled features get 8
    bits with a learned scale, so that every M-ary layer multiplies with integer codes.
    """

    def __init__(self, cfg: MqnnConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg = cfg or MqnnConfig()
        how, bits = cfg.mary, cfg.activation_bits
        widths = (cfg.image_channels, *cfg.channels)
        self.image: nn.Module = FixedQuantizer(1.0 / 255.0) if bits else nn.Identity()
        self.blocks = nn.ModuleList(
            MqnnBlock(
                widths[i],
                widths[i + 1],
                stride,
                cfg.pools[i] if cfg.pools else 1,
                how if i or cfg.quantized_ends else None,
                bits,
            )
            for i, stride in enumerate(cfg.strides)
        )
        self.pooled: nn.Module = UnsignedActivation(8) if bits else nn.Identity()
        self.linear = MaryLinear(widths[-1], cfg.classes, how if cfg.quantized_ends else None)

    def each_block(self) -> Iterator[MqnnBlock]:
        """The blocks from image to pool."""
        return cast("Iterator[MqnnBlock]", iter(self.blocks))

    def weights(self) -> list[MaryWeight]:
        """All layers with weights, in the order of the data."""
        return [*(block.conv for block in self.each_block()), self.linear]

    def rate_scale(self, name: str) -> float:
        """Learning rate of a parameter relative to the recipe's: a tenth for what quantizes."""
        return 0.1 if name.rsplit(".", 1)[-1] in _QUANTIZING else 1.0

    def anneal(self, progress: float) -> None:
        """Narrow the sigmoids that stand for thresholds, geometrically down to a fifth.

        Args:
            progress: Part of the training done, 0..1.
        """
        for layer in self.weights():
            layer.temperature = TEMPERATURE * 0.2**progress

    def forward(self, image: Tensor) -> Tensor:
        """Image to logits."""
        x = self.image(image)
        for block in self.each_block():
            x = block(x)
        return self.linear(self.pooled(x.mean(dim=(2, 3))))

    @torch.no_grad()
    def start_from(self, trained: MqnnNet) -> None:
        """Take over weights and normalization of a network, then start the levels by k-means.

        Args:
            trained: Network of the same shape, usually in full precision.

        Raises:
            ModelError: The shapes differ.
        """
        if trained.cfg.full_precision() != self.cfg.full_precision():
            raise ModelError(
                f"the network to start from is {_shape(trained.cfg)}, the new one is "
                f"{_shape(self.cfg)}; start from one of the same shape"
            )
        given = trained.state_dict()
        for name, value in self.state_dict().items():
            if name in given and name.rsplit(".", 1)[-1] not in _QUANTIZING:
                value.copy_(given[name])
        for layer in self.weights():
            layer.start()


def _shape(cfg: MqnnConfig) -> str:
    blocks = ", ".join(f"{c}/{s}" for c, s in zip(cfg.channels, cfg.strides, strict=True))
    return (
        f"{cfg.image_channels}x{cfg.image_size}x{cfg.image_size}, channels/strides {blocks}, "
        f"pools {list(cfg.pools)}, {cfg.classes} classes"
    )


@dataclass(frozen=True)
class WeightMemory:
    """Memory of a network's weights in bytes; normalization and biases stay float and are apart.

    Attributes:
        packed: ``ceil(log2 M)`` bits a weight, and the levels in float32.
        ideal: ``log2 M`` bits a weight, and the levels.
        full: float32 weights.
        other: float32 scale and offset of every channel's normalization, biases.
    """

    packed: float
    ideal: float
    full: float
    other: float


def weight_memory(net: MqnnNet) -> WeightMemory:
    """Count what the weights of a network take."""
    packed = ideal = full = 0.0
    for layer in net.weights():
        count = layer.weight.numel()
        full += 4 * count
        if layer.how is None:
            packed, ideal = packed + 4 * count, ideal + 4 * count
            continue
        levels = 4 * layer.levels.numel()
        packed += count * (layer.how.states - 1).bit_length() / 8 + levels
        ideal += count * math.log2(layer.how.states) / 8 + levels
    channels = sum(2 * block.norm.num_features for block in net.each_block())
    return WeightMemory(packed, ideal, full, 4 * (channels + net.linear.bias.numel()))
