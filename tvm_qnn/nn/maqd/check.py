"""Every accumulator value of a MaQD network, and how close rounding comes to a tie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvm_qnn.nn.maqd.layers import LayerBatchNorm, MaqdConv2d, MaqdWeight, RoundClip
from tvm_qnn.nn.maqd.networks import ImageCodes, MaqdResNet, MaqdVgg, NormActivation
from tvm_qnn.nn.maqd.small import MaqdNet

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Accumulators:
    """The sums that a normalization and its activation turn into codes.

    Attributes:
        name: Name of the activation in the ONNX file.
        low: ``[C]`` float64, the smallest sum that the weights of a channel allow, an integer.
        high: ``[C]`` float64, the largest.
        unit: Value of one in the network's float32 tensors.
        norm: The normalization.
        quantizer: The quantizer of the activation.
    """

    name: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    unit: float
    norm: nn.Module
    quantizer: RoundClip


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The map ``y = a_c z + b_c`` of a normalization in inference, ``[C]`` each.

    Raises:
        TypeError: The normalization has no fixed map.
    """
    if isinstance(norm, LayerBatchNorm):
        return norm.affine()
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"{type(norm).__name__} takes its statistics from the image")
    mean, var = (cast("Tensor", x) for x in (norm.running_mean, norm.running_var))
    factor = norm.weight / torch.sqrt(var + norm.eps)
    return factor, norm.bias - mean * factor


def sums(layer: nn.Module, low: int, high: int) -> Ends:
    """Smallest and largest sum of products of weight codes with values in ``low .. high``, ``[O]``.

    Padding with 0 stays within, where ``low <= 0 <= high``.
    """
    with torch.no_grad():
        codes = cast("MaqdWeight", layer).weight_codes().double().flatten(1).numpy()
    positive, negative = codes.clip(min=0).sum(axis=1), codes.clip(max=0).sum(axis=1)
    return positive * low + negative * high, positive * high + negative * low


def accumulators(net: MaqdNet | MaqdVgg | MaqdResNet) -> Iterator[Accumulators]:
    """All sums of a network that become codes, from the image to the head."""
    if isinstance(net, MaqdNet):
        yield from _net(net)
    elif isinstance(net, MaqdVgg):
        yield from _vgg(net)
    else:
        yield from _resnet(net)


def rounding_margin(net: MaqdNet | MaqdVgg | MaqdResNet) -> float:
    """How far every reachable pre-activation stays from a rounding tie, in quantization steps.

    Takes the whole range of every accumulator, channel by channel, through the affine map in
    float64. While the margin exceeds the rounding error of float32 (about 1e-6 steps), every way to
    evaluate normalization and quantizer gives the same codes: multiply and add, fused multiply-add,
    or batch normalization in any order.
    """
    smallest = np.inf
    for item in accumulators(net):
        with torch.no_grad():
            factor, offset = (part.double().numpy() for part in affine(item.norm))
        step = item.quantizer.step
        for channel, (low, high) in enumerate(zip(item.low, item.high, strict=True)):
            steps = factor[channel] * (item.unit / step) * np.arange(low, high + 1)
            steps += offset[channel] / step
            ties = np.clip(np.floor(steps), 0, item.quantizer.states - 2) + 0.5
            smallest = min(smallest, float(np.abs(steps - ties).min()))
    return smallest


def _of(name: str, ends: Ends, part: nn.Module) -> Accumulators:
    part = cast("NormActivation", part)
    return Accumulators(name, ends[0], ends[1], 1.0, part.norm, part.quantizer)


def _values(part: nn.Module) -> tuple[int, int]:
    part = cast("NormActivation", part)
    return -part.zero, part.quantizer.states - 1 - part.zero


def _net(net: MaqdNet) -> Iterator[Accumulators]:
    unit, top = net.image.scale, 255
    for number, block in enumerate(net.each_block(), start=1):
        ends, quantizer = sums(block.conv, 0, top), block.activation.quantizer
        yield Accumulators(f"activation{number}", *ends, unit, block.norm, quantizer)
        unit, top = 1.0, quantizer.states - 1


def _vgg(net: MaqdVgg) -> Iterator[Accumulators]:
    values = (-ImageCodes.zero, 255 - ImageCodes.zero)
    for number, block in enumerate(net.each_block(), start=1):
        yield _of(f"activation{number}", sums(block.conv, *values), block.activation)
        values = _values(block.activation)


def _resnet(net: MaqdResNet) -> Iterator[Accumulators]:
    stream = sums(cast("MaqdConv2d", net.stem), -ImageCodes.zero, 255 - ImageCodes.zero)
    for number, block in enumerate(net.each_block(), start=1):
        yield _of(f"block{number}_activation1", stream, block.activation1)
        inputs = _values(block.activation1)
        yield _of(f"block{number}_activation2", sums(block.conv1, *inputs), block.activation2)
        added = sums(block.conv2, *_values(block.activation2))
        if block.shortcut is not None:
            stream = sums(block.shortcut, *inputs)
        stream = (stream[0] + added[0], stream[1] + added[1])
    yield _of("activation", stream, net.activation)
