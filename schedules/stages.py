"""Blocks that bring activations into the form which the inner loop of a kernel reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.algebra import Digits
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.targets.record import Target


@dataclass(frozen=True)
class PackWord:
    """How a target collects a bit plane of 32 channels.

    Attributes:
        read: from (buffer of indices uint8, position, first channel) to the indices of 32 channels.
        word: from these and a plane number to the word uint32 with that bit of each.
    """

    read: Callable[[Any, Sequence[Any], Any], Any]
    word: Callable[[Any, int], Any]


def input_shape(work: ConvWork, plan: Plan) -> tuple[int, int, int]:
    """Return the images, rows and columns of the padded activations that all tiles read."""
    if plan.flat:
        return (1, 1, plan.width_stored)
    rows = (plan.height - 1) * work.strides[0] + (work.kernel[0] - 1) * work.dilation[0] + 1
    columns = (plan.width_stored - 1) * work.strides[1]
    return (plan.batch, rows, columns + (work.kernel[1] - 1) * work.dilation[1] + 1)


def needs_padding(work: ConvWork, plan: Plan) -> bool:
    """Tell whether a tile reads outside of the image."""
    return any(work.padding) or plan.width_stored != plan.width


def pixel(work: ConvWork, plan: Plan, n: Any, h: Any, w: Any) -> tuple[Any, Any, Any]:
    """Return the (image, row, column) of the tensor that loops (n, h, w) of the plan stand for."""
    return unflatten(plan, work.height, work.width, n, h, w)


def unflatten(plan: Plan, height: int, width: int, n: Any, h: Any, w: Any) -> tuple[Any, Any, Any]:
    """Split the column of a flat plan into image, row and column."""
    if not plan.flat:
        return n, h, w
    return (
        tirx.floordiv(w, height * width),
        tirx.floormod(tirx.floordiv(w, width), height),
        tirx.floormod(w, width),
    )


def padded_source(
    work: ConvWork, plan: Plan, n: Any, h: Any, w: Any
) -> tuple[tuple[Any, Any, Any], Any]:
    """Return where padded position (n, h, w) lies in the image, and whether it is inside."""
    if plan.flat:
        return pixel(work, plan, n, h, w), tirx.all(w < plan.width)
    top, left, _, _ = work.padding
    h, w = h - top, w - left
    return (n, h, w), tirx.all(h >= 0, h < work.height, w >= 0, w < work.width)


def digit_of(index_or_code: Any, digits: Digits, dtype: str, *, is_index: bool = False) -> Any:
    """Turn a scalar code, or its index, into its digit."""
    if digits.identity and not is_index:
        return ir.cast(index_or_code, dtype)
    index = ir.cast(index_or_code, "int32")
    if not is_index:
        index = index - digits.codes.lo
        if digits.codes.step > 1:
            index = tirx.truncdiv(index, tirx.const(digits.codes.step, "int32"))
    return ir.cast(index * digits.mult + digits.base, dtype)


def pad_digits(
    x: Any, work: ConvWork, plan: Plan, digits: Digits, dtype: str, fill: int, channels: int
) -> Any:
    """Copy activations into padded digits [N, H, W, channels >= C]; further channels hold 0.

    Args:
        x: codes [N, H, W, C], or bit planes if the work says so.
        work: the convolution.
        plan: its loops.
        digits: what to store.
        dtype: its type.
        fill: digit of padded taps.
        channels: channels to store.
    """
    shape = (*input_shape(work, plan), channels)
    padded = ir.alloc(shape, dtype)

    def read(source: tuple[Any, Any, Any], c: Any) -> Any:
        if not work.x_planes:
            return digit_of(x[(*source, c)], digits, dtype)
        index = tirx.const(0, "int32")
        for p in range(work.x.bits):
            word = tirx.shift_right(
                x[(*source, p, tirx.floordiv(c, WORD))], ir.cast(tirx.floormod(c, WORD), "uint32")
            )
            bit = ir.cast(tirx.bitwise_and(word, tirx.const(1, "uint32")), "int32")
            index = index + bit * 2**p
        return digit_of(index, digits, dtype, is_index=True)

    with ir.stage("pad", shape[:3]) as (n, h, w):
        source, inside = padded_source(work, plan, n, h, w)
        with ir.if_(inside):
            with ir.then(), ir.serial(work.in_channels) as c:
                ir.store(padded, read(source, c), n, h, w, c)
            with ir.else_(), ir.serial(work.in_channels) as c:
                ir.store(padded, tirx.const(fill, dtype), n, h, w, c)
        if channels > work.in_channels:
            with ir.serial(channels - work.in_channels) as c:
                ir.store(padded, tirx.const(0, dtype), n, h, w, work.in_channels + c)
    return padded


def pad_planes(x: Any, work: ConvWork, plan: Plan, fill: int) -> Any:
    """Copy bit planes [N, H, W, bits, words] and put the planes of index ``fill`` around them."""
    words = ceil_div(work.in_channels, WORD)
    shape = (*input_shape(work, plan), work.x.bits, words)
    padded = ir.alloc(shape, "uint32")
    full, last = 2**WORD - 1, 2 ** ((work.in_channels - 1) % WORD + 1) - 1
    with ir.stage("pad", shape[:3]) as (n, h, w):
        source, inside = padded_source(work, plan, n, h, w)
        with ir.if_(inside):
            with ir.then():
                for p in range(work.x.bits):
                    with ir.serial(words) as k:
                        ir.store(padded, x[(*source, p, k)], n, h, w, p, k)
            with ir.else_():
                for p in range(work.x.bits):
                    bit = fill >> p & 1
                    for k in range(words):
                        word = (last if k == words - 1 else full) * bit
                        ir.store(padded, tirx.const(word, "uint32"), n, h, w, p, k)
    return padded


def pack_planes(indices: Any, bits: int, pack_word: PackWord) -> Any:
    """Pack indices uint8 [N, H, W, 32 * words] into planes uint32 [N, H, W, bits, words]."""
    n, h, w, channels = (int(d) for d in indices.shape)
    words = channels // WORD
    planes = ir.alloc((n, h, w, bits, words), "uint32")
    with ir.stage("pack_input", (n, h, w, words)) as (vn, vh, vw, k):
        found = pack_word.read(indices, (vn, vh, vw), k * WORD)
        for p in range(bits):
            ir.store(planes, pack_word.word(found, p), vn, vh, vw, p, k)
    return planes


def read_vector(indices: Any, position: Sequence[Any], first: Any) -> Any:
    """Read a vector uint8x32."""
    return indices[(*position, ir.lanes_at(first, WORD))]


def read_scalars(indices: Any, position: Sequence[Any], first: Any) -> list[Any]:
    """Read 32 numbers, on a processor without vectors."""
    return [indices[(*position, first + i)] for i in range(WORD)]


def pack_vector(indices: Any, plane: int) -> Any:
    """Collect bit ``plane`` of 32 indices into a word, with instructions that every target has."""
    wide = ir.cast(indices, "uint32", WORD)
    bits = tirx.bitwise_and(
        tirx.shift_right(wide, ir.const(plane, "uint32", WORD)), ir.const(1, "uint32", WORD)
    )
    placed = tirx.shift_left(bits, ir.cast(tirx.Ramp(0, 1, WORD), "uint32", WORD))
    return ir.intrinsic("uint32", "llvm.vector.reduce.or.v32i32", placed)


def sum_windows(
    work: ConvWork,
    plan: Plan,
    pixel_sum: Callable[..., Any],
    extents: tuple[int, ...],
    channels: int = 1,
) -> Any:
    """Sum the digits under the kernel at each output pixel: int32 [N, OH, OW stored, channels].

    Args:
        work: the convolution.
        plan: its loops.
        pixel_sum: from (n, h, w, channel, *reduction variables) of a padded position to a term.
        extents: extents of the reduction variables.
        channels: sums of a pixel, one a group.
    """
    shape = (*input_shape(work, plan), channels)
    totals = ir.alloc(shape, "int32")
    with ir.stage("pixel_sum", shape, extents) as (n, h, w, g, *k):
        term = pixel_sum(n, h, w, g, *k)
        if extents:
            with ir.init():
                ir.store(totals, tirx.const(0, "int32"), n, h, w, g)
            term = totals[n, h, w, g] + term
        ir.store(totals, term, n, h, w, g)
    if work.kernel == (1, 1) and work.strides == (1, 1):
        return totals
    out = (plan.batch, plan.height, plan.width_stored, channels)
    sums = ir.alloc(out, "int32")
    with ir.stage("window_sum", out, work.kernel) as (n, h, w, g, i, j):
        with ir.init():
            ir.store(sums, tirx.const(0, "int32"), n, h, w, g)
        row, column = tap(work, h, w, i, j)
        ir.store(sums, sums[n, h, w, g] + totals[n, row, column, g], n, h, w, g)
    return sums


def tap(work: ConvWork, h: Any, w: Any, i: Any, j: Any) -> tuple[Any, Any]:
    """Return the padded position that kernel position (i, j) reads for output (h, w)."""
    return (
        h * work.strides[0] + i * work.dilation[0],
        w * work.strides[1] + j * work.dilation[1],
    )


def pack_scalars(indices: list[Any], plane: int) -> Any:
    """Collect bit ``plane`` of 32 numbers."""
    one = tirx.const(1, "uint32")
    bits = [
        tirx.bitwise_and(tirx.shift_right(ir.cast(i, "uint32"), tirx.const(plane, "uint32")), one)
        for i in indices
    ]
    word: Any = bits[0]
    for place, bit in enumerate(bits[1:], 1):
        word = tirx.bitwise_or(word, tirx.shift_left(bit, tirx.const(place, "uint32")))
    return word


def pack_x86(indices: Any, plane: int) -> Any:
    """Collect bit ``plane`` of 32 indices into a word, from the sign bits of bytes (VPMOVMSKB).

    The fence (no instruction) hides from LLVM where the word comes from: LLVM 22 reads an undefined
    mask register where signs of 32 bytes are both counted and broadcast to a vector.
    """
    signs = tirx.shift_left(indices, ir.const(7 - plane, "uint8", WORD))
    word = ir.intrinsic("int32", "llvm.x86.avx2.pmovmskb", tirx.reinterpret("int8x32", signs))
    fenced = ir.intrinsic("float32", "llvm.arithmetic.fence", tirx.reinterpret("float32", word))
    return tirx.reinterpret("uint32", fenced)


def pack_aarch64(indices: Any, plane: int) -> Any:
    """Collect bit ``plane`` of 32 indices into a word, joining neighbouring bytes (ADDP)."""
    one = ir.const(1, "uint8", WORD)
    bits = tirx.bitwise_and(tirx.shift_right(indices, ir.const(plane, "uint8", WORD)), one)
    places = tirx.Shuffle([tirx.const(i % 8, "uint8") for i in range(WORD)], list(range(WORD)))
    placed = tirx.shift_left(bits, places)
    low, high = (tirx.Shuffle([placed], list(range(i, i + 16))) for i in (0, 16))
    for _ in range(3):
        low = high = ir.intrinsic("uint8x16", "llvm.aarch64.neon.addp.v16i8", low, high)
    return tirx.Shuffle([tirx.reinterpret("uint32x4", low)], [0])


PACK_WORD = {
    "x86_64": PackWord(read_vector, pack_x86),
    "aarch64": PackWord(read_vector, pack_aarch64),
    "cuda": PackWord(read_scalars, pack_scalars),
}
"""The fastest way to collect a bit plane on each processor that has a better one."""
PACK_ANYWHERE = PackWord(read_vector, pack_vector)


def pack_word_for(target: Target) -> PackWord:
    """Return the fastest way of a target to collect a bit plane."""
    return PACK_WORD.get(target.processor, PACK_ANYWHERE)
