"""Unsigned activations with a fixed or a learned scale, for networks that compile to integers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class _LearnedStep(torch.autograd.Function):
    """LSQ: rounding on a grid whose step has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, largest: int) -> Tensor:
        steps = x / scale.to(x.dtype)
        codes = steps.clamp(0, largest).round_()
        ctx.save_for_backward(steps, codes)
        ctx.largest, ctx.dtype = largest, scale.dtype
        return codes * scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        steps, codes = ctx.saved_tensors
        to_x = torch.ops.aten.hardtanh_backward(grad, steps, 0, ctx.largest)
        to_scale = None
        if ctx.needs_input_grad[1]:
            # Inside: code - x/s; above: the largest code; below: 0. Subtracted element by element,
            # since two sums over a whole tensor would cancel all digits of bfloat16.
            total = (grad * codes).addcmul_(to_x, steps, value=-1).sum()
            to_scale = total.to(ctx.dtype).div(math.sqrt(grad.numel() * ctx.largest)).reshape(1)
        return to_x, to_scale, None


class UnsignedActivation(nn.Module):
    """``scale * clip(round(x / scale), 0, 2**bits - 1)``: relu and quantizer in one, shaped like x.

    Rounding is half to even, as in ONNX ``QuantizeLinear``. The gradient passes straight through
    inside of the range. A learned scale follows LSQ (Esser et al. 2020): it starts at
    ``2 mean|x| / sqrt(Q)`` of the first batch in training mode, and its gradient is divided by
    ``sqrt(N Q)``, with Q the largest code and N the number of elements.

    Attributes:
        bits: 1 to 8.
        scale: ``[1]`` float32, a parameter where it is learned.
        started: Whether the scale has a value; always where it is fixed.
    """

    scale: Tensor
    started: Tensor

    def __init__(self, bits: int = 8, scale: float | None = None) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"activations need 1 to 8 bits, got {bits}")
        if scale is not None and not scale > 0:
            raise ValueError(f"the scale of a quantizer must be positive, got {scale}")
        self.bits = bits
        if scale is None:
            self.scale = nn.Parameter(torch.ones(1))
        else:
            self.register_buffer("scale", torch.full((1,), scale))
        self.register_buffer("started", torch.tensor(scale is not None))

    @property
    def largest_code(self) -> int:
        """The code of the largest value."""
        return 2**self.bits - 1

    def step(self) -> Tensor:
        """The scale in use, ``[1]`` float32, positive."""
        return self.scale.abs().clamp_min(1e-8)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        if self.training and not self.started:
            with torch.no_grad():
                mean = x.clamp_min(0).float().mean()
                self.scale.fill_(2 * mean / math.sqrt(self.largest_code)).clamp_min_(1e-4)
                self.started.fill_(True)
        return _LearnedStep.apply(x, self.step(), self.largest_code)
