"""Kernels around convolutions with M-ary weights.

The sums for each representation value are integer convolutions with indicator weights (1 where the
weight has that code): an ordinary convolution with M x O output channels and 1-bit weights, which
any family computes. Here is what comes before and behind it.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import te, tirx
from tvm_qnn.schedules.ir import unfused
from tvm_qnn.schedules.pointwise import finish
from tvm_qnn.spec import packed_bytes


def indicators(count: int, values: int, bits: int) -> tuple[Any, int]:
    """Expand a stream of codebook indices into the stream of their indicators.

    Args:
        count: number of weights.
        values: number of representation values M.
        bits: bits of an index in the stream.

    Returns:
        PrimFunc (stream uint8, out uint8): bit ``m * count + i`` of out is whether weight i has
        code m. With it, the bytes of out.
    """
    stream = te.placeholder((packed_bytes(count, bits),), "uint8", "stream")
    bit = te.reduce_axis((0, 8), "bit")

    def indicator(position: Any) -> Any:
        m, i = position // count, position % count
        code: Any = tirx.const(0, "int32")
        for p in range(bits):
            where = i * bits + p
            byte = stream[where // 8].astype("int32")
            one = tirx.bitwise_and(tirx.shift_right(byte, where % 8), tirx.const(1, "int32"))
            code = code + one * (1 << p)
        met = tirx.Select(code == m, tirx.const(1, "int32"), tirx.const(0, "int32"))
        return tirx.if_then_else(position < values * count, met, tirx.const(0, "int32"))

    out = te.compute(
        (packed_bytes(values * count, 1),),
        lambda j: te.sum(
            tirx.shift_left(indicator(j * 8 + bit).astype("uint8"), bit.astype("uint8")), axis=[bit]
        ),
        "out",
    )
    return finish("codebook_indicators", [stream], out), packed_bytes(values * count, 1)


def combine(shape: tuple[int, ...], values: int, rows: int) -> Any:
    """Sum up the parts of ``spec.codebook_conv2d``.

    Args:
        shape: NHWO of the result.
        values: number of representation values M.
        rows: 1, or O for a codebook of each output channel.

    Returns:
        PrimFunc (sums int32 [N, H, W, M * O], table float32 [rows, M], out float32 [N, H, W, O]).
    """
    channels = shape[-1]
    sums = te.placeholder((*shape[:-1], values * channels), "int32", "sums")
    table = te.placeholder((rows, values), "float32", "table")

    def body(*i: Any) -> Any:
        *pixel, channel = i
        row = channel if rows > 1 else 0
        total: Any = None
        for m in range(values):
            part = unfused(sums(*pixel, channel + m * channels).astype("float32") * table[row, m])
            total = part if total is None else total + part
        return total

    return finish("codebook_combine", [sums, table], te.compute(shape, body, "out"))
