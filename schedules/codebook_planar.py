"""From images [H, W, C] to planes of pixels and back, a square of bytes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.codebook_plan import CHUNK, TapsPlan
from tvm_qnn.schedules.plan import ceil_div


def transposed(rows: Sequence[Any]) -> list[Any]:
    """Transpose as many vectors as each has lanes, by perfect shuffles."""
    lanes = len(rows)
    low = [i // 2 + i % 2 * lanes for i in range(lanes)]
    high = [i + lanes // 2 for i in low]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + lanes // 2]) for i in range(lanes // 2)]
        rows = [tirx.Shuffle(list(pair), order) for pair in pairs for order in (low, high)]
    return list(rows)


def emit_planes(x: Any, work: CodebookWork, plan: TapsPlan, fill: int) -> Any:
    """Write the blocks that copy images [N, H, W, C] into planes [N, length].

    Args:
        x: codes.
        work: the convolution.
        plan: its layout.
        fill: what stands for padding, a value of the dtype of ``x``.
    """
    conv, (down, right) = work.conv, plan.phases
    stored = conv.x.dtype
    planes = ir.alloc((conv.batch, plan.length(work)), stored)
    whole, rest = divmod(conv.in_channels, CHUNK)
    top, left, _, _ = conv.padding

    def pixel(phase: Any, position: Any) -> tuple[Any, Any, Any]:
        row, column = tirx.floordiv(position, plan.pitch), tirx.floormod(position, plan.pitch)
        y = row * conv.strides[0] + tirx.floordiv(phase, right) - top
        v = column * conv.strides[1] + tirx.floormod(phase, right) - left
        return y, v, tirx.all(y >= 0, y < conv.height, v >= 0, v < conv.width)

    def place(channel: Any, phase: Any, position: Any) -> Any:
        return (channel * (down * right) + phase) * plan.plane + position

    if whole:
        shape = (conv.batch, whole, down * right, plan.plane // CHUNK)
        with ir.stage("planes", shape) as (n, c, phase, block):
            end = plan.length(work)
            ir.accesses(
                [x[n, 0 : conv.height, 0 : conv.width, c * CHUNK : c * CHUNK + CHUNK]],
                [planes[n, 0:end]],
            )
            # Vectors of pixels, by way of memory: a condition for each would fill registers.
            square = ir.alloc((CHUNK * CHUNK,), stored)
            for k in range(CHUNK):
                y, v, inside = pixel(phase, block * CHUNK + k)
                at = ir.lanes_at(k * CHUNK, CHUNK)
                with ir.if_(inside):
                    with ir.then():
                        ir.store(square, x[n, y, v, ir.lanes_at(c * CHUNK, CHUNK)], at)
                    with ir.else_():
                        ir.store(square, ir.const(fill, stored, CHUNK), at)
            rows = transposed([square[ir.lanes_at(k * CHUNK, CHUNK)] for k in range(CHUNK)])
            for k, row in enumerate(rows):
                at = ir.lanes_at(place(c * CHUNK + k, phase, block * CHUNK), CHUNK)
                ir.store(planes, row, n, at)
    if rest:
        with ir.stage("planes_rest", (conv.batch, rest, down * right, plan.plane)) as axes:
            n, c, phase, position = axes
            end = plan.length(work)
            ir.accesses([x[n, 0 : conv.height, 0 : conv.width, whole * CHUNK + c]],
                        [planes[n, 0:end]])  # fmt: skip
            y, v, inside = pixel(phase, position)
            at = place(whole * CHUNK + c, phase, position)
            with ir.if_(inside):
                with ir.then():
                    ir.store(planes, x[n, y, v, whole * CHUNK + c], n, at)
                with ir.else_():
                    ir.store(planes, tirx.const(fill, stored), n, at)
    return planes


def emit_image(result: Any, out: Any, work: CodebookWork, plan: TapsPlan) -> None:
    """Write the block ``out``: copy planes [N, O, positions] into images [N, OH, OW, O]."""
    conv = work.conv
    whole, rest = divmod(conv.out_channels, CHUNK)
    small = str(out.dtype) in ("uint8", "int8")
    if small and whole:
        shape = (conv.batch, ceil_div(plan.positions, CHUNK), whole)
        with ir.stage("out", shape) as (n, block, c):
            first = ir.lanes_at(block * CHUNK, CHUNK)
            channels = ir.lanes_at(c * CHUNK, CHUNK)
            ir.accesses(
                [result[n, c * CHUNK : c * CHUNK + CHUNK, block * CHUNK : block * CHUNK + CHUNK]],
                [out[n, 0 : conv.out_height, 0 : conv.out_width, c * CHUNK : c * CHUNK + CHUNK]],
            )
            square = ir.alloc((CHUNK * CHUNK,), str(out.dtype))
            columns = transposed([result[n, c * CHUNK + k, first] for k in range(CHUNK)])
            for k, column in enumerate(columns):
                ir.store(square, column, ir.lanes_at(k * CHUNK, CHUNK))
            for k in range(CHUNK):
                position = block * CHUNK + k
                row = tirx.floordiv(position, plan.pitch)
                v = tirx.floormod(position, plan.pitch)
                with ir.guard(tirx.all(v < conv.out_width, row < conv.out_height)):
                    vector = square[ir.lanes_at(k * CHUNK, CHUNK)]
                    ir.store(out, vector, n, row, v, channels)
    first, count = (whole * CHUNK, rest) if small else (0, conv.out_channels)
    if count:
        pixels = (conv.batch, conv.out_height, conv.out_width)
        with ir.stage("out_rest", (*pixels, count)) as (n, h, v, o):
            ir.store(out, result[n, first + o, h * plan.pitch + v], n, h, v, first + o)


def emit_window_sums(planes: Any, work: CodebookWork, plan: TapsPlan) -> Any:
    """Write the blocks that sum all taps of each position, [N, groups, positions] int32."""
    conv, lanes = work.conv, CHUNK
    per_phase = plan.phases[0] * plan.phases[1]
    per_group = conv.in_channels // conv.groups
    extent = per_phase * plan.plane
    stored = plan.blocks * plan.pixels
    totals = ir.alloc((conv.batch, conv.groups, extent + stored), "int32")
    with ir.stage("channel_sum", (conv.batch, conv.groups, extent // lanes), (per_group,)) as axes:
        n, g, block, c = axes
        at = ir.lanes_at(block * lanes, lanes)
        with ir.init():
            ir.store(totals, ir.const(0, "int32", lanes), n, g, at)
        place = (g * per_group + c) * extent + block * lanes
        term = ir.cast(planes[n, ir.lanes_at(place, lanes)], "int32", lanes)
        ir.store(totals, totals[n, g, at] + term, n, g, at)
    sums = ir.alloc((conv.batch, conv.groups, stored), "int32")
    shape = (conv.batch, conv.groups, stored // lanes)
    with ir.stage("window_sum", shape) as (n, g, block):
        ir.accesses(
            [totals[n, g, 0 : extent + stored]], [sums[n, g, block * lanes : block * lanes + lanes]]
        )
        at = ir.lanes_at(block * lanes, lanes)
        total: Any = None
        for i in range(conv.kernel[0]):
            for j in range(conv.kernel[1]):
                tap = (tirx.const(k, "int32") for k in (0, i, j))
                place = plan.offset(conv, *tap) + block * lanes
                term = totals[n, g, ir.lanes_at(place, lanes)]
                total = term if total is None else total + term
        ir.store(sums, total, n, g, at)
    return sums
