"""Operations of quantized memory networks as autograd functions, for :class:`QmannNet`.

Forward they compute values of the codes that :mod:`tvm_qnn.spec.fixed` defines; backward every
quantizer passes the gradient unchanged, also where it saturates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_qnn.nn.qmann.config import SIGN_TERMS, QmannConfig
from tvm_qnn.spec.fixed import FixedPoint, softmax_table


def fix(x: Tensor, fmt: FixedPoint) -> Tensor:
    """Values of the codes of ``x``: truncated toward zero, saturated; no gradient of its own."""
    scale = 2.0**fmt.fraction
    # NaN, from a run that diverged, becomes the limit.
    codes = torch.trunc(x * scale).nan_to_num_(nan=fmt.limit)
    return codes.clamp_(-fmt.limit, fmt.limit).div_(scale)


class _Straight(torch.autograd.Function):
    """Quantize forward, pass the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *formats: FixedPoint) -> Tensor:
        for fmt in formats:
            x = fix(x, fmt)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, *(None for _ in range(len(ctx.needs_input_grad) - 1))


def straight(x: Tensor, *formats: FixedPoint) -> Tensor:
    """Quantize to each format in turn; straight-through."""
    quantized: Tensor = _Straight.apply(x, *formats)
    return quantized


class _Binary(torch.autograd.Function):
    """Sign forward (+1 for 0), straight-through backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Dot(torch.autograd.Function):
    """Dot products of memory ``[S, N, L, E]`` and key ``[S, N, E]``, each product truncated."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, key: Tensor, fmt: FixedPoint) -> Tensor:
        ctx.save_for_backward(memory, key)
        return fix(memory * key.unsqueeze(-2), fmt).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        memory, key = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return grad * key.unsqueeze(-2), (grad * memory).sum(-2), None


class _Dense(torch.autograd.Function):
    """Quantized ``wk [S, E, E]`` times key ``[S, N, E]``; backward with the master weights."""

    @staticmethod
    def forward(ctx: Any, wk: Tensor, key: Tensor, fmt: FixedPoint, binary: bool) -> Tensor:
        ctx.save_for_backward(wk, key)
        codes = fix(wk, fmt)
        if binary:
            return torch.matmul(key, codes.mT)
        return fix(codes.unsqueeze(1) * fix(key, fmt).unsqueeze(-2), fmt).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        wk, key = ctx.saved_tensors
        return torch.matmul(grad.mT, key), torch.matmul(grad, wk), None, None


class _Read(torch.autograd.Function):
    """Weighted sum of memory rows ``[S, N, L, E]``, each product truncated."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, rows: Tensor, fmt: FixedPoint, cfg: QmannConfig) -> Tensor:
        ctx.save_for_backward(p, rows)
        ctx.fmt, ctx.cfg = fmt, cfg
        return fix(p.unsqueeze(-1) * rows, fmt).sum(-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        p, rows = ctx.saved_tensors
        scale, limit = ctx.cfg.read_scale, ctx.fmt.limit

        def rounded(x: Tensor) -> Tensor:
            return torch.trunc(x * scale).clamp(-limit, limit) / scale if scale else x

        grad = rounded(grad).unsqueeze(-2)
        to_p = rounded(rounded(rounded(rows) * grad).sum(-1))
        return to_p, rounded(p.unsqueeze(-1) * grad), None, None


class _Hamming(torch.autograd.Function):
    """Bounded similarity of memory ``[S, N, L, E]`` and key ``[S, N, E]``, gradient of eq. 7."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, key: Tensor, fmt: FixedPoint, cfg: QmannConfig) -> Tensor:
        scale = 2.0**fmt.fraction
        u, v = (memory * scale).int(), (key * scale).int().unsqueeze(-2)
        ctx.fmt, ctx.cfg = fmt, cfg
        ctx.save_for_backward(u, v)
        apart = (u < 0) != (v < 0)
        a, b = u.abs(), v.abs()
        shift = fmt.bits - cfg.alpha
        if cfg.similarity == "hamming":
            equal = fmt.limit - (a ^ b)
            total = torch.where(apart, -equal, equal).sum(-1).to(memory.dtype)
            return fix(total * 2.0**-shift, fmt)
        equal = fmt.limit - torch.where(apart, (a + b).clamp(max=fmt.limit), (a - b).abs())
        total = torch.where(apart, -equal, equal).sum(-1).to(memory.dtype)
        bound = 2.0**fmt.integer
        return (total * 2.0 ** (1 - shift)).clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        u, v = ctx.saved_tensors
        step = grad.unsqueeze(-1) * 2.0**ctx.cfg.alpha
        own, other = (torch.where(x < 0, -1.0, 1.0) for x in (u, v))
        apart = (own != other).to(grad.dtype)
        a, b = u.abs(), v.abs()
        if ctx.cfg.similarity == "hamming":
            bits = ones(a) - ones(b)
        else:
            # The code compares what is left after the smaller magnitude was taken off both.
            larger = torch.where(a >= b, 1.0, -1.0)
            both = (a + b).clamp(max=ctx.fmt.limit)
            bits = larger * ones(torch.where(apart > 0, both, (a - b).abs()))
        constant, factor = SIGN_TERMS[ctx.cfg.sign_term]
        to_memory = step * (apart * (constant + factor * other) - other * bits)
        to_key = step * (apart * (constant + factor * own) + own * bits)
        return to_memory, to_key.sum(-2), None, None


def ones(x: Tensor) -> Tensor:
    """Bits set in every element of an int32 tensor below 2**15, as float32."""
    x = x - ((x >> 1) & 0x5555)
    x = (x & 0x3333) + ((x >> 2) & 0x3333)
    x = (x + (x >> 4)) & 0x0F0F
    return ((x + (x >> 8)) & 0x1F).to(torch.float32)


class _Softmax(torch.autograd.Function):
    """Integer softmax of :func:`tvm_qnn.spec.fixed.fixed_softmax` on values, float backward."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, valid: Tensor, fmt: FixedPoint, codes: bool) -> Tensor:
        scale = 2.0**fmt.fraction
        top = torch.where(valid, score, -torch.inf).amax(-1, keepdim=True)
        if codes:
            table = torch.from_numpy(softmax_table(fmt).astype(np.float64))
            distance = torch.where(valid, (top - score) * scale, 0.0).long()
            e = torch.where(valid, table[distance], 0.0)
        else:
            e = torch.where(valid, torch.exp((score - top).double()), 0.0)
        total = e.sum(-1, keepdim=True)
        total = torch.where(total > 0, total, 1.0)
        ctx.save_for_backward((e / total).to(score.dtype))
        return (torch.floor(e * scale / total).clamp_(max=fmt.limit) / scale).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (p,) = ctx.saved_tensors
        return p * (grad - (p * grad).sum(-1, keepdim=True)), None, None, None


def binary(x: Tensor) -> Tensor:
    """Signs of ``x``, +1 for 0."""
    signs: Tensor = _Binary.apply(x)
    return signs


def dot(memory: Tensor, key: Tensor, fmt: FixedPoint) -> Tensor:
    """Dot products ``[S, N, L]`` of ``[S, N, L, E]`` and ``[S, N, E]``; the sum is exact."""
    total: Tensor = _Dot.apply(memory, key, fmt)
    return total


def dense(wk: Tensor, key: Tensor, fmt: FixedPoint, signs: bool) -> Tensor:
    """``wk [S, E, E]``, quantized, times key ``[S, N, E]``; the sum is exact.

    Args:
        wk: Master weights (out, in).
        key: Values, or signs.
        fmt: Format of the weights and of the products.
        signs: Whether ``key`` holds signs: the products are then exact.
    """
    total: Tensor = _Dense.apply(wk, key, fmt, signs)
    return total


def read(p: Tensor, rows: Tensor, fmt: FixedPoint, cfg: QmannConfig) -> Tensor:
    """Sum of the rows ``[S, N, L, E]`` weighted by ``p [S, N, L]``; the sum is exact."""
    total: Tensor = _Read.apply(p, rows, fmt, cfg)
    return total


def hamming(memory: Tensor, key: Tensor, fmt: FixedPoint, cfg: QmannConfig) -> Tensor:
    """Bounded similarity ``[S, N, L]`` of ``[S, N, L, E]`` and ``[S, N, E]`` (eq. 6 and 7)."""
    bounded: Tensor = _Hamming.apply(memory, key, fmt, cfg)
    return bounded


def softmax(score: Tensor, valid: Tensor, fmt: FixedPoint, codes: bool) -> Tensor:
    """Quantized softmax over the valid slots.

    Args:
        score: ``[S, N, L]``.
        valid: bool, broadcast to ``score``; other slots get 0.
        fmt: Format of the result.
        codes: Whether the scores are codes of ``fmt``, as they are but for "hamming-code".
    """
    p: Tensor = _Softmax.apply(score, valid, fmt, codes)
    return p
