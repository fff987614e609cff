"""MaQD layers: M-state weights and activations, layer-batch normalization, surrogate gradients.

Source: MaQD (arXiv 2403.14999), reconstructed from its abstract and secondary descriptions.
Nothing here claims the paper's own numbers. Assumptions:

* ``M_w`` and ``M_a`` are numbers of states, both scaled by ``s = 1/3`` (the three-sigma interval).
* Rounding is half to even, so that an activation is exactly ONNX ``QuantizeLinear``. The source
  does not give its rounding; it matters only for values that fall exactly on a threshold.
* Even ``M`` is allowed for weights: the states are then ``-1, -1 + 2/(M-1), ..., 1``, without zero.
* Weights and activations stand for themselves as integer codes, where the formulas have
  ``2 code/(M_w-1)`` and ``code/(M_a-1)``: constant factors vanish in the normalization after them.
  So every sum of products is an integer, exact in float32 below 2**24, and every factor is exact
  in bfloat16, too.
* Weight standardization divides by ``sqrt(population variance + 1e-5)``.
* Layer-batch normalization has a gain and a bias per channel.
* The steepness of the scaled sigmoid is 6 per quantization step: neighbouring bumps overlap. The
  sum over all thresholds is taken over the two nearest, which is all that there is for M <= 3; the
  others add at most 0.015, 1 % of the slope there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 1.0 / 3.0
EPSILON = 1e-5
STEEPNESS = 6.0
Surrogate = Literal["sigmoid", "straight-through"]


@dataclass(frozen=True)
class RoundClip:
    """Scaled round-clip with ``states`` output states, as integer codes and a unit.

    ======== ============================================== ================= ==============
    kind     code                                           codes             value
    ======== ============================================== ================= ==============
    unsigned ``clip(round((M-1) s x), 0, M-1)``             ``0 .. M-1``      ``code/(M-1)``
    odd M    ``clip(round((M-1)/2 s x), -(M-1)/2, (M-1)/2)`` consecutive       ``2code/(M-1)``
    even M   ``2 clip(round((M-1)(s x+1)/2), 0, M-1)-(M-1)`` odd integers      ``code/(M-1)``
    ======== ============================================== ================= ==============

    Attributes:
        states: Number of states M, at least 2.
        signed: True for weights (values in [-1, 1]), False for activations (values in [0, 1]).
        scale: The factor s that is applied to the input.
    """

    states: int
    signed: bool
    scale: float = SCALE

    def __post_init__(self) -> None:
        if self.states < 2:
            raise ValueError(f"a quantizer needs at least 2 states, got {self.states}")
        if not self.scale > 0:
            raise ValueError(f"the scale of a quantizer must be positive, got {self.scale}")

    @property
    def step(self) -> float:
        """Distance of neighbouring thresholds in units of the input, a float32 number."""
        span = 2.0 if self.signed else 1.0
        return float(np.float32(span / ((self.states - 1) * self.scale)))

    @property
    def unit(self) -> float:
        """Value of one code: ``value = code * unit`` in [-1, 1] or [0, 1], a float32 number."""
        consecutive_signed = self.signed and self.states % 2 == 1
        return float(np.float32((2.0 if consecutive_signed else 1.0) / (self.states - 1)))

    @property
    def stride(self) -> int:
        """Distance of neighbouring codes: 2 for signed codes of an even M, otherwise 1."""
        return 2 if self.signed and self.states % 2 == 0 else 1

    @property
    def largest_code(self) -> int:
        """The code of the largest value."""
        consecutive_signed = self.signed and self.states % 2 == 1
        return (self.states - 1) // 2 if consecutive_signed else self.states - 1

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The M-1 inputs, in steps, at which the code changes."""
        center = (self.states - 1) / 2 if self.signed else 0.0
        return tuple(j + 0.5 - center for j in range(self.states - 1))

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of ``x`` (same shape and dtype), without a gradient of their own."""
        steps = x / self.step
        if not self.signed:
            return torch.round(steps).clamp_(0, self.states - 1)
        half = (self.states - 1) / 2
        if self.stride == 1:
            return torch.round(steps).clamp_(-half, half)
        return torch.round(steps + half).clamp_(0, self.states - 1).mul_(2).sub_(self.states - 1)


class _Codes(torch.autograd.Function):
    """Codes in the forward pass, surrogate derivative in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: RoundClip, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.quantizer, ctx.surrogate = quantizer, surrogate
        return quantizer.codes(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        quantizer: RoundClip = ctx.quantizer
        steps = x / quantizer.step
        thresholds = quantizer.thresholds
        if ctx.surrogate == "straight-through":
            slope = ((steps > thresholds[0] - 1) & (steps < thresholds[-1] + 1)).to(x.dtype)
        else:
            slope = _sigmoid_slope(steps, thresholds)
        return slope.mul_(grad).mul_(quantizer.stride / quantizer.step), None, None


def _sigmoid_slope(steps: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Sum of ``k sig(k d) (1 - sig(k d))`` over the distances d to the two nearest thresholds."""
    k, end = STEEPNESS, math.exp(-STEEPNESS)
    above = steps - thresholds[0]
    lower = torch.floor(above).clamp_(0, max(len(thresholds) - 2, 0))
    # Beyond the bounds the slope is 0 in float32, and squares below do not overflow.
    e = torch.exp((above - lower).clamp_(-7, 8) * -k)
    # sig (1 - sig) = e / (1 + e)**2; at the next threshold, one step further, e is e/end.
    bump = (1 + e).square().reciprocal()
    if len(thresholds) > 1:
        bump = bump + end * (end + e).square().reciprocal()
    return bump.mul_(e).mul_(k)


def round_clip_codes(x: Tensor, quantizer: RoundClip, surrogate: Surrogate = "sigmoid") -> Tensor:
    """Integer codes of ``x`` as floats, differentiable through a surrogate.

    The derivative is the sum over the two thresholds ``t`` that are nearest to x of
    ``k sig(k(x-t)) (1-sig(k(x-t)))`` with ``k = 6/step`` ("sigmoid"), or ``1/step`` within half a
    step of the outermost states and 0 beyond ("straight-through"), each times the distance of
    neighbouring codes.

    Args:
        x: Float tensor of any shape.
        quantizer: Number of states, sign and scale.
        surrogate: Which derivative stands for that of the rounding.

    Returns:
        Tensor like ``x`` that holds integers.
    """
    if surrogate not in ("sigmoid", "straight-through"):
        raise ValueError(f"surrogate must be 'sigmoid' or 'straight-through', got {surrogate!r}")
    return _Codes.apply(x, quantizer, surrogate)


def standardize_weight(weight: Tensor) -> Tensor:
    """Weight standardization: mean 0 and variance 1 over the fan-in of every output channel.

    Args:
        weight: ``[O, ...]`` latent weights.

    Returns:
        ``(w - mean_o) / sqrt(var_o + 1e-5)`` of the same shape; population variance.
    """
    axes = tuple(range(1, weight.ndim))
    var, mean = torch.var_mean(weight, dim=axes, correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(var + EPSILON)


class MaqdWeight(nn.Module):
    """What convolution and linear layer share: latent weights and their quantizer."""

    def __init__(self, shape: tuple[int, ...], states: int, surrogate: Surrogate) -> None:
        super().__init__()
        self.quantizer = RoundClip(states, signed=True)
        self.surrogate: Surrogate = surrogate
        # Standardization ignores the size of the latent weights; unit variance gives every layer
        # the same relative learning rate.
        self.weight = nn.Parameter(torch.randn(shape))
        self.fused: Callable[[], Tensor] | None = None

    def weight_codes(self) -> Tensor:
        """Integer codes of the standardized weights, as floats of the weight's shape."""
        if self.training and self.fused is not None:
            return self.fused()
        return self.standardize_and_quantize()

    def standardize_and_quantize(self) -> Tensor:
        """Do so, operator by operator."""
        return round_clip_codes(standardize_weight(self.weight), self.quantizer, self.surrogate)


class MaqdConv2d(MaqdWeight):
    """2-D convolution with M-state weights, square kernel, zero padding, no bias.

    ``[N, in_channels, H, W] -> [N, out_channels, H', W']`` in float32. For inputs that are integers
    every output is an integer, exact while it stays below 2**24.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        states: int = 3,
        surrogate: Surrogate = "sigmoid",
    ) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size), states, surrogate)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the weight codes."""
        return functional.conv2d(x, self.weight_codes(), stride=self.stride, padding=self.padding)


class MaqdLinear(MaqdWeight):
    """Linear layer with M-state weights, no bias: ``[N, in] -> [N, out]`` in float32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        states: int = 3,
        surrogate: Surrogate = "sigmoid",
    ) -> None:
        super().__init__((out_features, in_features), states, surrogate)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the weight codes."""
        return functional.linear(x, self.weight_codes())


class LayerBatchNorm(nn.Module):
    """Layer-batch normalization: one mean and one variance for all of N, C and the spatial axes.

    Training: ``y = gain_c (z - mean) / sqrt(var + 1e-5) + bias_c`` with the mean and population
    variance of the whole tensor; running values follow with momentum 0.1. Inference: the running
    values, hence the fixed affine map ``y = a_c z + b_c`` of :meth:`affine`.

    Input and output are ``[N, C, ...]`` of one float dtype.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_var", torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        """Normalize; in training mode also update the running mean and variance."""
        if self.training:
            wide = torch.promote_types(z.dtype, torch.float32)
            mean = z.mean(dtype=wide)
            var = (z - mean).square().mean(dtype=wide)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach(), self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        factor, offset = self._affine(mean, var)
        shape = (1, -1) + (1,) * (z.ndim - 2)
        return z * factor.view(shape) + offset.view(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """The map of inference mode, ``(a, b)`` of shape ``[C]`` with ``y = a_c z + b_c``."""
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        factor = self.gain / torch.sqrt(var + EPSILON)
        return factor, self.bias - mean * factor


class LayerBatchNorm2d(LayerBatchNorm):
    """:class:`LayerBatchNorm` for ``[N, C, H, W]``."""

    def forward(self, z: Tensor) -> Tensor:
        """Normalize a four-dimensional tensor."""
        if z.ndim != 4:
            raise ValueError(f"expected [N, C, H, W], got the shape {tuple(z.shape)}")
        return super().forward(z)


class MaqdActivation(nn.Module):
    """M-state activation: the integers ``clip(round(x / step), 0, M-1)``, shaped like ``x``."""

    def __init__(self, states: int = 4, surrogate: Surrogate = "sigmoid") -> None:
        super().__init__()
        self.quantizer = RoundClip(states, signed=False)
        self.surrogate: Surrogate = surrogate

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        return round_clip_codes(x, self.quantizer, self.surrogate)


class FixedQuantizer(nn.Module):
    """8-bit unsigned quantizer with a fixed scale and zero point 0, like ONNX ``QuantizeLinear``.

    ``scale * clip(round(x / scale), 0, 255)``, same shape as ``x``. In training mode the gradient
    passes unchanged, which is right wherever the input already lies on the grid, and the value may
    be off by the rounding error of one float32 addition; in eval mode it is exact.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = float(np.float32(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        quantized = torch.round(x.detach() / self.scale).clamp_(0, 255).mul_(self.scale)
        if self.training and x.requires_grad:
            return x + (quantized - x.detach())
        return quantized
