"""Networks built from the layers of this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from tvm_qnn.nn.maqd.layers import (
    FixedQuantizer,
    LayerBatchNorm,
    LayerBatchNorm2d,
    MaqdActivation,
    MaqdConv2d,
    MaqdLinear,
    Surrogate,
)


@dataclass(frozen=True)
class MaqdConfig:
    """Shape of a :class:`MaqdNet`; the default is the network for 28x28 grey images.

    Attributes:
        image_size: Height and width of the square input image, in pixels.
        image_channels: Channels of the input image.
        channels: Output channels of every convolution.
        strides: Stride of every convolution, as long as ``channels``.
        classes: Number of logits.
        weight_states: M_w of every layer.
        activation_states: M_a of every activation.
        surrogate: Gradient of the quantizers.
    """

    kind: ClassVar[str] = "maqd"
    image_size: int = 28
    image_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 64, 128, 128)
    strides: tuple[int, ...] = (1, 2, 1, 2, 1)
    classes: int = 10
    weight_states: int = 3
    activation_states: int = 4
    surrogate: Surrogate = "sigmoid"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ValueError(
                f"one stride a convolution: {len(self.channels)} channel counts, "
                f"{len(self.strides)} strides"
            )

    def build(self) -> MaqdNet:
        """Return a new network."""
        return MaqdNet(self)

    @property
    def pooled_size(self) -> int:
        """Height and width of the last feature map, in pixels."""
        size = self.image_size
        for stride in self.strides:
            size = (size - 1) // stride + 1
        return size


class MaqdBlock(nn.Module):
    """3x3 convolution, layer-batch normalization, activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, cfg: MaqdConfig) -> None:
        super().__init__()
        self.conv = MaqdConv2d(
            in_channels,
            out_channels,
            stride=stride,
            states=cfg.weight_states,
            surrogate=cfg.surrogate,
        )
        self.norm = LayerBatchNorm2d(out_channels)
        self.activation = MaqdActivation(cfg.activation_states, cfg.surrogate)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, out_channels, ceil(H/stride), ceil(W/stride)]``."""
        return self.activation(self.norm(self.conv(x)))


class MaqdNet(nn.Module):
    """Plain convolutional network with low-bit weights and activations in every layer.

    Image ``[N, image_channels, S, S]`` float32 in [0, 1], quantized on entry to 8 bits with the
    scale 1/255 (lossless for uint8 images); logits ``[N, classes]`` float32.

    The sum of a pooled feature map's codes is at most ``(M_a - 1) * pooled_size**2``. While that
    fits in 8 bits, the pooled average is quantized with the scale of one code in one pixel, which
    loses nothing; larger maps use the whole 8-bit range.
    """

    def __init__(self, cfg: MaqdConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg = cfg or MaqdConfig()
        self.image = FixedQuantizer(1.0 / 255.0)
        widths = (cfg.image_channels, *cfg.channels)
        blocks = [
            MaqdBlock(widths[i], widths[i + 1], stride, cfg) for i, stride in enumerate(cfg.strides)
        ]
        self.blocks = nn.ModuleList(blocks)
        levels = min(cfg.pooled_size**2, 255 / (cfg.activation_states - 1))
        self.pooled = FixedQuantizer(1.0 / levels)
        self.linear = MaqdLinear(widths[-1], cfg.classes, cfg.weight_states, cfg.surrogate)
        self.norm = LayerBatchNorm(cfg.classes)

    def each_block(self) -> Iterator[MaqdBlock]:
        """The blocks from image to pool."""
        return cast("Iterator[MaqdBlock]", iter(self.blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Image to logits."""
        x = self.image(image)
        for block in self.each_block():
            x = block(x)
        return self.norm(self.linear(self.pooled(x.mean(dim=(2, 3)))))


def maqd_fashion_net() -> MaqdNet:
    """Ternary weights, 4-state activations, 28x28 grey images, 10 classes (the zoo's network)."""
    return MaqdNet(MaqdConfig())
