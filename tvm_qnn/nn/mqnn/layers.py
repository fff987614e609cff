"""MQNN layers: weights with M free representation values, trained jointly with their partitions.

Source: MQNN (M-ary quantized neural networks, ICME 2020). Only its abstract could be had; this is
a reconstruction anchored on it and on TTQ, LQ-Nets, LSQ and He & Fan's thresholds. Nothing here
claims the paper's own numbers. From the abstract: M levels generalize binary and ternary weights,
they are asymmetric, and levels and partitions are trained jointly. Assumptions:

* Levels ``r_1 < ... < r_M`` are free reals, one set a layer or one an output channel; 0 need not be
  among them. A weight ``w`` becomes ``r_m`` where ``d_(m-1) < w <= d_m``.
* Partitions: the midpoints of neighbouring levels, so that both move together ("lloyd", the rule of
  LQ-Nets), or thresholds with a gradient of their own ("learned"): the derivative of each step is
  replaced by that of a sigmoid of width ``T``, a part of the weights' standard deviation that may
  shrink during training. Their order is kept by ``d_m = d_1 + sum of softplus``.
* A level's gradient is the exact one, the sum over its bin, or that divided by ``sqrt(n_m M)``.
* The latent weights' gradient passes straight through, is scaled by ``|r_m| / mean |r|`` ("ttq";
  by 1 where ``r_m = 0``), or is the sum of the thresholds' sigmoid derivatives times the steps
  ("soft"). It stops beyond ``[r_1 - D, r_M + D]``, with ``D`` the distance from the outermost level
  to its threshold, lest weights drift away.
* Levels start from the latent weights by k-means; their learning rate is a tenth of the weights'.
* Only weights are M-ary. Activations are unsigned with a fixed or a learned scale (LSQ), since a
  compiled network needs integers; the abstract speaks of weights alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tvm_qnn.nn.mqnn.lloyd import lloyd_max

TEMPERATURE = 0.1
MAX_STATES = 16
Thresholds = Literal["lloyd", "learned"]
WeightGradient = Literal["straight-through", "ttq", "soft"]


@dataclass(frozen=True)
class Mary:
    """How the weights of a layer are quantized.

    Attributes:
        states: Number of representation values M, 2 to 16.
        thresholds: "lloyd" (midpoints of the levels) or "learned".
        per_channel: Whether every output channel has levels of its own.
        weight_gradient: "straight-through", "ttq" or "soft", see the module.
        scale_level_gradient: Whether a level's gradient is divided by ``sqrt(n_m M)``.
    """

    states: int
    thresholds: Thresholds = "lloyd"
    per_channel: bool = False
    weight_gradient: WeightGradient = "straight-through"
    scale_level_gradient: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.states <= MAX_STATES:
            raise ValueError(f"M must be 2 to {MAX_STATES} states, got {self.states}")
        for name, known in (("thresholds", Thresholds), ("weight_gradient", WeightGradient)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}: {getattr(self, name)}")


class _Quantize(torch.autograd.Function):
    """Levels of the bins in the forward pass; the gradients of the module docstring backward."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, levels: Tensor, thresholds: Tensor, how: Mary, width: Tensor
    ) -> Tensor:
        index = torch.searchsorted(thresholds, weight)
        ctx.save_for_backward(weight, levels, thresholds, index, width)
        ctx.how = how
        return levels.gather(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        weight, levels, thresholds, index, width = ctx.saved_tensors
        how: Mary = ctx.how
        to_levels = torch.zeros_like(levels).scatter_add_(1, index, grad)
        if how.scale_level_gradient:
            counts = torch.zeros_like(levels).scatter_add_(1, index, torch.ones_like(grad))
            to_levels = to_levels / (counts.clamp_min(1) * how.states).sqrt()

        to_thresholds = None
        soft = torch.zeros_like(weight) if how.weight_gradient == "soft" else None
        if how.thresholds == "learned" or soft is not None:
            steps = levels.diff(dim=1)
            to_thresholds = torch.empty_like(thresholds)
            for m in range(how.states - 1):
                sigmoid = torch.sigmoid((weight - thresholds[:, m : m + 1]) / width)
                bump = sigmoid * (1 - sigmoid) / width * steps[:, m : m + 1]
                to_thresholds[:, m] = -(grad * bump).sum(dim=1)
                if soft is not None:
                    soft += bump

        low = 2 * levels[:, :1] - thresholds[:, :1]
        high = 2 * levels[:, -1:] - thresholds[:, -1:]
        to_weight = grad * ((weight >= low) & (weight <= high))
        if soft is not None:
            to_weight = to_weight * soft
        elif how.weight_gradient == "ttq":
            factor = levels.abs() / levels.abs().mean(dim=1, keepdim=True)
            # Weights at 0 must be able to leave it.
            factor = torch.where(levels == 0, torch.ones_like(factor), factor)
            to_weight = to_weight * factor.gather(1, index)
        return to_weight, to_levels, to_thresholds, None, None


def quantize(
    weight: Tensor, levels: Tensor, thresholds: Tensor, how: Mary, width: Tensor
) -> Tensor:
    """Replace every weight by the level of its bin, differentiably in all three tensors.

    Args:
        weight: ``[G, n]`` latent weights, one group a row.
        levels: ``[G, M]`` ascending representation values.
        thresholds: ``[G, M-1]`` ascending partitions.
        how: Options.
        width: ``[G, 1]`` width T of the sigmoids that stand for the steps in the backward pass.

    Returns:
        ``[G, n]``, of the values in ``levels``.
    """
    return _Quantize.apply(weight, levels, thresholds.contiguous(), how, width)


class MaryWeight(nn.Module):
    """Latent weights ``[O, ...]`` with representation values and partitions, or plain weights.

    Attributes:
        weight: Latent weights, or the weights themselves where ``how`` is None.
        how: Options; None keeps full precision.
        levels: ``[G * M]`` representation values, G = 1 or the number of output channels.
        first, gaps: ``[G]`` and ``[G * (M-2)]``: the lowest threshold, and the distances of the
            others before softplus; only where thresholds are learned.
        temperature: Width of the sigmoids over the standard deviation of the group's weights.
    """

    levels: nn.Parameter
    first: nn.Parameter
    gaps: nn.Parameter
    unit: Tensor

    def __init__(self, shape: tuple[int, ...], how: Mary | None) -> None:
        super().__init__()
        self.how = how
        self.temperature = TEMPERATURE
        fan_in = math.prod(shape[1:])
        self.weight = nn.Parameter(torch.randn(shape) * math.sqrt(2 / fan_in))
        if how is None:
            return
        groups = shape[0] if how.per_channel else 1
        self.levels = nn.Parameter(torch.zeros(groups * how.states))
        if how.thresholds == "learned":
            self.first = nn.Parameter(torch.zeros(groups))
            self.gaps = nn.Parameter(torch.zeros(groups * (how.states - 2)))
            self.register_buffer("unit", torch.ones(()))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Set levels and thresholds from the latent weights by k-means; nothing without levels."""
        if self.how is None:
            return
        rows = self._rows()
        levels = lloyd_max(rows, self.how.states)
        self.levels.copy_(levels.flatten())
        if self.how.thresholds == "learned":
            thresholds = (levels[:, 1:] + levels[:, :-1]) / 2
            # Distances of many units are nearly their own softplus and keep their rate of learning.
            self.unit.copy_(0.1 * rows.std(correction=0).clamp_min(1e-6))
            distance = (thresholds.diff(dim=1) / self.unit).clamp_min(1e-3)
            self.first.copy_(thresholds[:, 0])
            self.gaps.copy_(((distance + torch.log(-torch.expm1(-distance))) * self.unit).flatten())

    def codebook(self) -> Tensor:
        """Representation values ``[G, M]``, ascending in every row."""
        assert self.how is not None
        # Training may push one level past its neighbour; they then swap roles.
        return self.levels.view(-1, self.how.states).sort(dim=1).values

    def thresholds(self) -> Tensor:
        """Partitions ``[G, M-1]``, ascending in every row."""
        assert self.how is not None
        if self.how.thresholds == "lloyd":
            levels = self.codebook().detach()
            return (levels[:, 1:] + levels[:, :-1]) / 2
        gaps = functional.softplus(self.gaps.view(len(self.first), -1) / self.unit) * self.unit
        return torch.cat([self.first[:, None], self.first[:, None] + gaps.cumsum(dim=1)], dim=1)

    def index(self) -> Tensor:
        """Number of every weight's level, 0..M-1, int64 of the weight's shape."""
        rows, thresholds = self._rows(), self.thresholds().contiguous()
        return torch.searchsorted(thresholds, rows.contiguous()).view(self.weight.shape)

    def quantized_weight(self) -> Tensor:
        """What the layer multiplies with, of the weight's shape."""
        if self.how is None:
            return self.weight
        rows = self._rows()
        width = self.temperature * rows.detach().std(dim=1, correction=0, keepdim=True)
        found = quantize(rows, self.codebook(), self.thresholds(), self.how, width.clamp_min(1e-12))
        found = found.view(self.weight.shape)
        if found.ndim == 4 and self.weight.is_contiguous(memory_format=torch.channels_last):
            # Else the convolution and all that follows it would leave this layout.
            found = found.contiguous(memory_format=torch.channels_last)
        return found

    def _rows(self) -> Tensor:
        assert self.how is not None
        return self.weight.reshape(len(self.weight) if self.how.per_channel else 1, -1)


class MaryConv2d(MaryWeight):
    """2-D convolution with M-ary weights, square kernel, zero padding, no bias.

    ``[N, in_channels, H, W] -> [N, out_channels, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        how: Mary | None = None,
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), how)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the quantized weight."""
        weight = self.quantized_weight()
        return functional.conv2d(x, weight, stride=self.stride, padding=self.padding)


class MaryLinear(MaryWeight):
    """Linear layer with M-ary weights and a float bias: ``[N, in] -> [N, out]``."""

    def __init__(self, in_features: int, out_features: int, how: Mary | None = None) -> None:
        super().__init__((out_features, in_features), how)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the quantized weight and add the bias."""
        return functional.linear(x, self.quantized_weight(), self.bias)
