"""Kernels that bring the dense bit stream of an artifact into a packed layout, once, at load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import s_tir, te, tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda
from tvm_qnn.schedules.algebra import Digits
from tvm_qnn.schedules.ir import STATIC_ATTRS
from tvm_qnn.schedules.plan import WORD, ceil_div
from tvm_qnn.spec import packed_bytes
from tvm_qnn.targets.record import Target

Layout = Callable[..., Any]


def stream_indices(stream: Any, shape: tuple[int, ...], bits: int) -> Any:
    """Read indices of ``bits`` bits from a stream (``spec.pack_stream``) as a tensor of ``shape``.

    Returns:
        a tensor expression, uint8 for up to 8 bits, else int32.
    """

    def read(*position: Any) -> Any:
        flat = tirx.const(0, "int32")
        for extent, i in zip(shape, position, strict=True):
            flat = flat * extent + i
        return stream_index(stream, flat, bits).astype("uint8" if bits <= 8 else "int32")

    return te.compute(shape, read, name="indices")


def stream_index(stream: Any, place: Any, bits: int) -> Any:
    """Return index number ``place`` of a stream (``spec.pack_stream``), int32."""
    last = int(stream.shape[0]) - 1
    # Not as a quotient and a remainder: TVM 0.27 loses offsets where it flattens such indices.
    byte, shift = (place * bits) >> 3, (place * bits) & 7
    value = stream[byte].astype("int32")
    # A code starts at any bit when its size does not divide a byte.
    spans = 1 if bits in (1, 2, 4, 8) else ceil_div(7 + bits, 8)
    for k in range(1, spans):
        value = value | (stream[tirx.min(byte + k, last)].astype("int32") << (8 * k))
    return (value >> shift) & (2**bits - 1)


def prepare_func(
    work: ConvWork, target: Target, shape: tuple[int, ...], layout: Callable[[Any], Layout],
    lanes: int = 1,
) -> Any:  # fmt: skip
    """Return the PrimFunc ``(stream uint8, packed)``.

    Args:
        work: the convolution.
        target: for which device.
        shape: shape of the packed weights.
        layout: from the tensor of indices OHWI to the body of ``te.compute`` over ``shape``.
        lanes: output channels that the last axis runs over, if it does.
    """
    o, kh, kw, c = work.weight_shape
    stream = te.placeholder((packed_bytes(o * kh * kw * c, work.w.bits),), "uint8", "stream")
    indices = stream_indices(stream, (o, kh, kw, c), work.w.bits)
    return layout_func(stream, indices, target, shape, layout, lanes)


def layout_func(
    stream: Any, indices: Any, target: Target, shape: tuple[int, ...],
    layout: Callable[[Any], Layout], lanes: int,
) -> Any:  # fmt: skip
    """Return the PrimFunc ``(stream, packed)`` from a stream and the indices computed from it."""
    packed = te.compute(shape, layout(indices), name="packed")
    sch = s_tir.Schedule(te.create_prim_func([stream, packed]))
    if target.gpu is not None:
        cuda.bind_rest(sch)
    else:
        # Weights of one output channel are neighbours: read them in order, write them apart.
        loops = sch.get_loops(sch.get_sblock("packed"))[: len(shape)]
        channel, *rest = sch.split(loops[-1], [lanes, shape[-1] // lanes])
        sch.reorder(channel, *loops[1:-1], *rest)
    return sch.mod["main"].with_attrs({**STATIC_ATTRS, "global_symbol": "prepare"})


def weight_digit(indices: Any, digits: Digits, dtype: str, o: Any, i: Any, j: Any, c: Any) -> Any:
    """Return the digit of weight (o, i, j, c), and 0 beyond the last channels."""
    outputs, inputs = int(indices.shape[0]), int(indices.shape[3])
    digit = indices[o, i, j, c].astype("int32") * digits.mult + digits.base
    return tirx.if_then_else(
        tirx.all(o < outputs, c < inputs), digit.astype(dtype), tirx.const(0, dtype)
    )


def byte_word(indices: Any, digits: Digits, o: Any, i: Any, j: Any, word: Any) -> Any:
    """Collect the digits of 4 input channels, as bytes."""
    k = te.reduce_axis((0, 4), "byte")
    digit = weight_digit(indices, digits, "int32", o, i, j, word * 4 + k)
    byte = (digit & 255).astype("uint32")
    return te.sum(byte << (k * 8).astype("uint32"), axis=k)


def plane_word(indices: Any, digits: Digits, plane: Any, o: Any, i: Any, j: Any, word: Any) -> Any:
    """Collect bit ``plane`` of the digits of 32 input channels (two's complement if negative)."""
    k = te.reduce_axis((0, WORD), "bit")
    digit = weight_digit(indices, digits, "int32", o, i, j, word * WORD + k)
    bit = ((digit >> plane) & 1).astype("uint32")
    return te.sum(bit << k.astype("uint32"), axis=k)
