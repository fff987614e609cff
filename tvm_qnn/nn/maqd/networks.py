"""MaQD networks for colour images: VGG style and pre-activation residual, with a float twin.

Between the normalizations everything is an integer: an image is its codes less 128, a weight is
its codes, an activation is its codes ``0 .. M_a-1`` less a zero point. The zero point is the
rounded mean code of a normal distribution: 1 for M_a = 8, 2 for 16, and 0 below 5. It changes no
more than the padding, since the bias of a normalization absorbs a constant. But layer-batch
normalization does not take away the mean of every channel: without the zero point, every weight
that changes its state shifts the mean of its channel. The activations before the head have none.

The full-precision twin (``precision="float"``) has the same shape: float weights without
standardization, batch normalization, ReLU, a linear layer with bias, and images scaled to [-2, 2].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from tvm_qnn.nn.maqd.layers import (
    FixedQuantizer,
    LayerBatchNorm,
    MaqdConv2d,
    MaqdLinear,
    MaqdWeight,
    RoundClip,
    Surrogate,
    round_clip_codes,
)
from tvm_qnn.nn.maqd.norm import Normalization, normalization

Precision = Literal["maqd", "float"]
_Config = TypeVar("_Config", bound="NetworkConfig")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the shapes of :class:`MaqdVgg` and :class:`MaqdResNet` have in common.

    Attributes:
        image_size: Height and width of the square input image, in pixels.
        image_channels: Channels of the input image.
        classes: Number of logits.
        weight_states: M_w of every layer between the first and the last.
        activation_states: M_a of every activation.
        first_states: M_w of the first convolution; 0 stands for ``weight_states``.
        last_states: M_w of the linear layer; 0 stands for ``weight_states``.
        surrogate: Gradient of the quantizers.
        norm: Normalization before every activation.
        precision: "maqd", or "float" for the full-precision twin, which ignores all states.
    """

    image_size: int = 32
    image_channels: int = 3
    classes: int = 10
    weight_states: int = 3
    activation_states: int = 8
    first_states: int = 0
    last_states: int = 0
    surrogate: Surrogate = "sigmoid"
    norm: Normalization = "layer-batch"
    precision: Precision = "maqd"

    def full_precision(self: _Config) -> _Config:
        """Return the shape of the full-precision twin."""
        return replace(
            self, weight_states=3, activation_states=8, first_states=0, last_states=0,
            surrogate="sigmoid", norm="layer-batch", precision="float",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VggConfig(NetworkConfig):
    """Shape of a :class:`MaqdVgg`; the default is the network for CIFAR-10.

    Attributes:
        channels: Output channels of every 3x3 convolution.
        pools: Numbers, from 0, of the convolutions whose activations are pooled 2x2 (maximum).
    """

    kind: ClassVar[str] = "maqd-vgg"
    channels: tuple[int, ...] = (32, 64, 64, 192, 256, 256, 256)
    pools: tuple[int, ...] = (1, 3, 5)

    def __post_init__(self) -> None:
        if not self.channels or not set(self.pools) <= set(range(len(self.channels))):
            raise ValueError(
                f"pools {self.pools} name convolutions, of which there are {len(self.channels)}"
            )
        if self.image_size >> len(self.pools) < 1:
            raise ValueError(f"{len(self.pools)} pools leave nothing of {self.image_size} pixels")

    def build(self) -> MaqdVgg:
        """Return a new network."""
        return MaqdVgg(self)

    @property
    def pooled_size(self) -> int:
        """Height and width of the last feature map, in pixels."""
        return self.image_size >> len(self.pools)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(NetworkConfig):
    """Shape of a :class:`MaqdResNet`; the default is the network for CIFAR-10.

    Attributes:
        stem: Channels of the first convolution.
        stages: Channels of every stage. Every stage but the first halves height and width.
        blocks: Residual blocks of a stage.
    """

    kind: ClassVar[str] = "maqd-resnet"
    stem: int = 32
    stages: tuple[int, ...] = (32, 64, 128)
    blocks: int = 2

    def __post_init__(self) -> None:
        if not self.stages or self.blocks < 1:
            raise ValueError(f"{len(self.stages)} stages of {self.blocks} blocks are no network")

    def build(self) -> MaqdResNet:
        """Return a new network."""
        return MaqdResNet(self)

    @property
    def pooled_size(self) -> int:
        """Height and width of the last feature map, in pixels."""
        size = self.image_size
        for _ in self.stages[1:]:
            size = (size - 1) // 2 + 1
        return size


HALF_NORMAL_MEAN = math.sqrt(0.5 / math.pi)
"""Mean of ``max(x, 0)`` for a standard normal x: about the mean activation."""


class ImageCodes(nn.Module):
    """Image ``[N, C, H, W]`` in [0, 1] to its 8-bit codes less 128, as floats."""

    scale = FixedQuantizer(1.0 / 255.0).scale
    zero = 128

    def forward(self, image: Tensor) -> Tensor:
        """Quantize; lossless for what was uint8."""
        return torch.round(image / self.scale).clamp_(0, 255).sub_(self.zero)


class CenteredImage(nn.Module):
    """Image in [0, 1] to [-2, 2], for the full-precision twin."""

    def forward(self, image: Tensor) -> Tensor:
        """Shift and scale."""
        return image * 4 - 2


class NormActivation(nn.Module):
    """Normalization and M-state activation: ``[N, C, H, W]`` to codes less the zero point."""

    def __init__(self, channels: int, cfg: NetworkConfig, centered: bool) -> None:
        super().__init__()
        self.norm = normalization(cfg.norm, channels)
        self.quantizer = RoundClip(cfg.activation_states, signed=False)
        self.surrogate: Surrogate = cfg.surrogate
        self.zero = round(HALF_NORMAL_MEAN / self.quantizer.step) if centered else 0
        self.fused: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None

    def forward(self, z: Tensor) -> Tensor:
        """Normalize in float32 and quantize."""
        if self.training and self.fused is not None:
            normalize, quantize = self.fused
            return quantize(normalize(z))
        return self.quantize(self.normalize(z))

    def normalize(self, z: Tensor) -> Tensor:
        """Normalize in float32."""
        return cast("Tensor", self.norm(z.float()))

    def quantize(self, y: Tensor) -> Tensor:
        """Quantize; in autocast the codes have its type, which holds them exactly."""
        codes = round_clip_codes(y, self.quantizer, self.surrogate) - self.zero
        if torch.is_autocast_enabled("cpu"):
            return codes.to(torch.get_autocast_dtype("cpu"))
        return codes


class FloatActivation(nn.Module):
    """Batch normalization and ReLU, the full-precision counterpart of :class:`NormActivation`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, z: Tensor) -> Tensor:
        """Normalize, then ReLU."""
        return torch.relu(self.norm(z))


def _activation(channels: int, cfg: NetworkConfig, centered: bool = True) -> nn.Module:
    if cfg.precision == "float":
        return FloatActivation(channels)
    return NormActivation(channels, cfg, centered)


def _conv(
    widths: Sequence[int], cfg: NetworkConfig, stride: int = 1, kernel: int = 3, states: int = 0
) -> nn.Module:
    (inputs, outputs), padding = widths, kernel // 2
    if cfg.precision == "float":
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return conv
    states = states or cfg.weight_states
    return MaqdConv2d(inputs, outputs, kernel, stride, padding, states, cfg.surrogate)


class Head(nn.Module):
    """Global average pool, linear layer and its normalization: feature map to logits.

    The sum of a pooled feature map's codes is at most ``(M_a - 1) * size**2``. While that fits in 8
    bits, the average is quantized with the scale of one code in one pixel, which loses nothing;
    larger maps use the whole 8-bit range.
    """

    def __init__(self, channels: int, size: int, cfg: NetworkConfig) -> None:
        super().__init__()
        if cfg.precision == "float":
            self.pooled: nn.Module = nn.Identity()
            self.linear: nn.Module = nn.Linear(channels, cfg.classes)
            self.norm: nn.Module = nn.Identity()
            return
        self.pooled = FixedQuantizer(1.0 / min(size**2, 255 / (cfg.activation_states - 1)))
        self.linear = MaqdLinear(
            channels, cfg.classes, cfg.last_states or cfg.weight_states, cfg.surrogate
        )
        self.norm = LayerBatchNorm(cfg.classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, classes]``."""
        return self.norm(self.linear(self.pooled(x.float().mean(dim=(2, 3)))).float())


class VggBlock(nn.Module):
    """3x3 convolution, normalization, activation, and where asked a 2x2 maximum of the codes."""

    def __init__(self, number: int, cfg: VggConfig) -> None:
        super().__init__()
        widths = (cfg.image_channels, *cfg.channels)[number : number + 2]
        self.conv = _conv(widths, cfg, states=0 if number else cfg.first_states)
        self.activation = _activation(widths[1], cfg, centered=number + 1 < len(cfg.channels))
        self.pool = nn.MaxPool2d(2) if number in cfg.pools else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', H, W]``, pooled or not."""
        return self.pool(self.activation(self.conv(x)))


class MaqdVgg(nn.Module):
    """Plain network: image ``[N, C, S, S]`` float32 in [0, 1] to logits ``[N, classes]``."""

    def __init__(self, cfg: VggConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg = cfg or VggConfig()
        self.image = CenteredImage() if cfg.precision == "float" else ImageCodes()
        self.blocks = nn.ModuleList(VggBlock(i, cfg) for i in range(len(cfg.channels)))
        self.head = Head(cfg.channels[-1], cfg.pooled_size, cfg)

    def each_block(self) -> Iterator[VggBlock]:
        """The blocks from image to head."""
        return cast("Iterator[VggBlock]", iter(self.blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Image to logits."""
        x = self.image(image)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class PreActBlock(nn.Module):
    """Pre-activation residual block: the stream carries accumulators, integers of one unit.

    ``h = activation(stream)``; the result is ``conv2(activation(conv1(h)))`` plus the stream, or,
    where the shape changes or the stream begins, plus a 1x1 convolution of ``h``.
    """

    def __init__(
        self, widths: tuple[int, int], stride: int, project: bool, cfg: ResNetConfig
    ) -> None:
        super().__init__()
        self.activation1 = _activation(widths[0], cfg)
        self.conv1 = _conv(widths, cfg, stride)
        self.activation2 = _activation(widths[1], cfg)
        self.conv2 = _conv((widths[1], widths[1]), cfg)
        self.shortcut = _conv(widths, cfg, stride, kernel=1) if project else None

    def forward(self, stream: Tensor) -> Tensor:
        """``[N, C, H, W]`` accumulators to ``[N, C', ceil(H/stride), ceil(W/stride)]``."""
        h = self.activation1(stream)
        y = self.conv2(self.activation2(self.conv1(h)))
        # bfloat16 has too few digits for accumulators.
        return y.float() + (stream if self.shortcut is None else self.shortcut(h)).float()


class MaqdResNet(nn.Module):
    """Pre-activation residual network: image in [0, 1] to logits ``[N, classes]``.

    The first block of every stage has a projection, the very first, too: what it adds up are
    products of weight and activation codes, while the stem's sums have the unit of the image.
    """

    def __init__(self, cfg: ResNetConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg = cfg or ResNetConfig()
        self.image = CenteredImage() if cfg.precision == "float" else ImageCodes()
        self.stem = _conv((cfg.image_channels, cfg.stem), cfg, states=cfg.first_states)
        blocks, width = [], cfg.stem
        for stage, channels in enumerate(cfg.stages):
            for number in range(cfg.blocks):
                stride = 2 if stage and not number else 1
                blocks.append(PreActBlock((width, channels), stride, number == 0, cfg))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.activation = _activation(width, cfg, centered=False)
        self.head = Head(width, cfg.pooled_size, cfg)

    def each_block(self) -> Iterator[PreActBlock]:
        """The blocks from stem to head."""
        return cast("Iterator[PreActBlock]", iter(self.blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Image to logits."""
        x = self.stem(self.image(image))
        for block in self.blocks:
            x = block(x)
        return self.head(self.activation(x))


def fuse_training(net: nn.Module) -> None:
    """Compile normalization, activation and weight quantizers of a network for training.

    Needs a C++ compiler. Training runs about twice as fast; its float32 results may differ from
    those without in the last place. Evaluation is not touched.
    """
    from torch._dynamo import config

    layers = sum(isinstance(m, NormActivation | MaqdWeight) for m in net.modules())
    # A function of a class is compiled for each layer; PyTorch would stop at the eighth.
    config.recompile_limit = max(config.recompile_limit, layers)
    for module in net.modules():
        if isinstance(module, NormActivation):
            # As one, the gradients of gain, bias and statistics would each compute the slope anew.
            module.fused = (
                torch.compile(module.normalize, dynamic=False),
                torch.compile(module.quantize, dynamic=False),
            )
        if isinstance(module, MaqdWeight):
            module.fused = torch.compile(module.standardize_and_quantize, dynamic=False)
