"""Family ``taps``: sums for M-ary weights by adding activations, without a multiplication.

What the weights of one output channel do to activations is to sort them into M sums. Taps are
sorted by their codes when an artifact is loaded (``codebook_sort``), so that vectors of pixels are
only added, one tap after another, into 16-bit sums that stay in registers.

Several output channels read the same activations: a group of G channels shares them. Each tap
belongs to one of M**G patterns of codes, and one addition serves all G channels; the sums of the
patterns (stage one) are then added up for each channel and code (stage two). Taps where every
channel of the group has the code that it skips, its most frequent one, are not read at all: the sum
for that code is what the others leave of the sum over all taps, computed once for all channels.

For M values of equal frequency a window of K taps costs ``K * (1 - M**-G) / G`` additions for each
channel, and ``(M - 1) * M**(G - 1)`` more in stage two. The sums are combined as
:func:`spec.codebook_conv2d` says, in the order of the codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.codebook_epilogue import (
    Arguments,
    combined,
    declare,
    refusal,
    stored_value,
)
from tvm_qnn.schedules.codebook_plan import (
    CHUNK,
    TapsPlan,
    in_bytes,
    make_taps_plan,
    most_taps,
    sums_cycles,
)
from tvm_qnn.schedules.codebook_planar import emit_image, emit_planes, emit_window_sums
from tvm_qnn.schedules.codebook_sort import longest_pattern, row_type, sort_func
from tvm_qnn.schedules.family import Kernel, Refusal
from tvm_qnn.schedules.tiling import scheduled
from tvm_qnn.targets.record import Target

_TOGETHER = 4
"""Taps of one turn of the inner loop."""

_SECOND = 64
"""Pixels whose 32-bit sums stay in registers."""


class Taps:
    """Any codebook convolution of 8-bit activations.

    Args:
        group: output channels that share sums; None for what costs least.
    """

    name = "taps"

    def __init__(self, group: int | None = None) -> None:
        self._group = group

    def supports(self, work: CodebookWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        if target.gpu is not None:
            return Refusal(self.name, "adds taps in vectors of a CPU")
        conv = work.conv
        dtype = conv.x.dtype
        if dtype not in ("uint8", "int8"):
            return Refusal(self.name, f"activations {conv.x} take more than a byte")
        limits = np.iinfo(dtype)
        if not limits.min <= conv.x_zero <= limits.max:
            return Refusal(self.name, f"zero point {conv.x_zero} outside of {dtype}")
        return refusal(self.name, work)

    def cycles(self, work: CodebookWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, conv = self.plan(work, target), work.conv
        block = sums_cycles(work, plan.machine, plan.vectors, plan.group, plan.shared)
        copied = 0.0
        for channels, elements in (
            (conv.in_channels, plan.planes(work) * plan.plane / conv.in_channels),
            (conv.out_channels, plan.positions),
        ):
            # Channels that fill no square are copied one element at a time.
            rest = channels % CHUNK
            copied += elements * (0.5 * (channels - rest) + 10.0 * rest)
        return conv.batch * (plan.blocks * plan.groups(work) * block + copied)

    def plan(self, work: CodebookWork, target: Target) -> TapsPlan:
        """Return the layout and the blocks."""
        return make_taps_plan(work, target, self._group)

    def compute(self, work: CodebookWork, target: Target) -> Any:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self._compute(work, target, wide=False)

    def schedule(self, sch: Any, work: CodebookWork, target: Target) -> None:
        """Spread images, blocks of pixels and groups of channels over the cores."""
        plan = self.plan(work, target)
        for name, loops in (("planes", 2), ("sums", 3), ("out", 2)):
            if _has(sch, name):
                sch.parallel(sch.fuse(*sch.get_loops(sch.get_sblock(name))[:loops]))
        channel_sum = sch.get_sblock("channel_sum") if plan.shared else None
        if channel_sum is not None:
            *_, block, channel = sch.get_loops(channel_sum)
            sch.reorder(channel, block)
            sch.decompose_reduction(channel_sum, channel)

    def build(
        self, work: CodebookWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan = self.plan(work, target)
        wide = longest_pattern(work, plan, weights) > most_taps(work, 16)
        name = work.name(self.name)
        shape, dtype = row_type(work, plan)
        return Kernel(
            name,
            scheduled(self, self._compute(work, target, wide=wide), work, target, trace, name),
            sort_func(work, plan),
            shape,
            dtype,
        )

    def _compute(self, work: CodebookWork, target: Target, *, wide: bool) -> Any:
        plan, conv = self.plan(work, target), work.conv
        shape, dtype = row_type(work, plan)
        with ir.function("main") as finished:
            x = ir.argument(
                "x", (conv.batch, conv.height, conv.width, conv.in_channels), conv.x.dtype
            )
            packed = ir.argument("weights", shape, dtype)
            args = declare(work)
            planes = emit_planes(x, work, plan, conv.x_zero)
            totals = emit_window_sums(planes, work, plan) if plan.shared else None
            channels = plan.groups(work) * plan.group
            stored_positions = plan.blocks * plan.pixels
            result = ir.alloc((conv.batch, channels, stored_positions), str(args.out.dtype))
            spatial = (conv.batch, plan.blocks, plan.groups(work))
            with ir.stage("sums", spatial) as (n, block, group):
                first, end = block * plan.pixels, plan.length(work)
                reads = [planes[n, 0:end], packed[group, 0 : shape[1]]]
                if totals is not None:
                    reads.append(totals[n, 0 : conv.groups, first : first + plan.pixels])
                reads += [ir.whole(b) for b in (args.table, *args.parameters)]
                mine = slice(group * plan.group, group * plan.group + plan.group)
                ir.accesses(reads, [result[n, mine, first : first + plan.pixels]])
                patterns = _emit_patterns(planes, packed, work, plan, (n, block, group), wide)
                for j in range(plan.group):
                    sums = _emit_codes(patterns, packed, totals, work, plan, (n, block, group), j)
                    channel = group * plan.group + j
                    value = _finish(work, plan, args, sums, channel)
                    with ir.serial(plan.pixels // CHUNK) as v:
                        to = ir.lanes_at(first + v * CHUNK, CHUNK)
                        ir.store(result, value(ir.lanes_at(v * CHUNK, CHUNK)), n, channel, to)
            emit_image(result, args.out, work, plan)
        return finished()


def _finish(
    work: CodebookWork, plan: TapsPlan, args: Arguments, sums: Any, channel: Any
) -> Callable[[Any], Any]:
    """Return the function from the index of a vector of pixels to what is stored for them."""
    channel = tirx.min(channel, work.conv.out_channels - 1)
    row = channel if work.rows > 1 else 0

    def value(at: Any) -> Any:
        y = combined(
            work, lambda m: sums[m, at], lambda m: ir.splat(args.table[m, row], CHUNK), CHUNK
        )
        parameters = tuple(ir.splat(p[channel], CHUNK) for p in args.parameters)
        return stored_value(work, y, parameters, CHUNK)

    return value


def _has(sch: Any, name: str) -> bool:
    root = sch.get_sblock("root")
    return name in [sch.get(b).name_hint for b in sch.get_child_blocks(root)]


def _emit_patterns(
    planes: Any, packed: Any, work: CodebookWork, plan: TapsPlan, at: tuple[Any, Any, Any],
    wide: bool,
) -> Any:  # fmt: skip
    """Add up the taps of each pattern for a block of pixels: [patterns, pixels]."""
    n, block, group = at
    lanes, count, byte = plan.machine.lanes, plan.patterns(work), work.conv.x.dtype
    narrow = "int16" if byte == "int8" else "uint16"
    # What taps are added to, what that is added to where it gets full, and how many taps fill it.
    first, second, most = narrow, None, 0
    if wide:
        first, second, most = narrow, "int32", most_taps(work, 16)
    elif in_bytes(work):
        first, second, most = byte, narrow, most_taps(work, 8)
    sums = ir.alloc((count, plan.pixels), second or first)
    acc = ir.alloc((plan.pixels,), first)
    total = ir.alloc((plan.pixels,), second or first) if second else acc
    vectors = [ir.lanes_at(v * lanes, lanes) for v in range(plan.vectors)]
    begin, skipped = plan.header(work), 1 if plan.shared else 0
    # Sums of 64 bits: of those of 32, LLVM makes vectors, from which addresses are slow to get.
    start_pixel = ir.cast(block * plan.pixels + plan.machine.bias, "int64")

    def clear(buffer: Any, dtype: str) -> None:
        for v in vectors:
            ir.store(buffer, ir.const(0, dtype, lanes), v)

    def add_tap(tap: Any) -> None:
        place = ir.cast(packed[group, begin + tap], "int64") + start_pixel
        for k, v in enumerate(vectors):
            row = planes[n, ir.lanes_at(place + k * lanes, lanes)]
            ir.store(acc, acc[v] + ir.cast(row, first, lanes), v)

    def add(start: Any, stop: Any) -> None:
        clear(acc, first)
        with ir.serial(tirx.floordiv(stop - start, _TOGETHER)) as several:
            for k in range(_TOGETHER):
                add_tap(start + several * _TOGETHER + k)
        with ir.serial(tirx.floormod(stop - start, _TOGETHER)) as k:
            add_tap(stop - 1 - k)

    with ir.serial(count - skipped) as p:
        pattern = p + skipped
        start, stop = packed[group, plan.group + pattern], packed[group, plan.group + pattern + 1]
        if second is None:
            add(start, stop)
        else:
            clear(total, second)
            with ir.serial(tirx.floordiv(stop - start + (most - 1), most)) as piece:
                since = start + piece * most
                add(since, tirx.min(since + most, stop))
                for v in vectors:
                    ir.store(total, total[v] + ir.cast(acc[v], second, lanes), v)
        for v in vectors:
            ir.store(sums, total[v], pattern, v)
    return sums


def _emit_codes(
    patterns: Any, packed: Any, totals: Any, work: CodebookWork, plan: TapsPlan,
    at: tuple[Any, Any, Any], j: int,
) -> Any:  # fmt: skip
    """Add up the patterns for each code of channel ``j`` of a group: int32 [M, pixels]."""
    n, block, group = at
    conv, values, lanes = work.conv, work.values, plan.machine.lanes
    sums = ir.alloc((values, plan.pixels), "int32")
    above, below = values**j, values ** (plan.group - 1 - j)
    together = max(d for d in range(1, _SECOND // lanes + 1) if plan.vectors % d == 0) * lanes
    acc = ir.alloc((together,), "int32")
    spans = [ir.lanes_at(v, lanes) for v in range(0, together, lanes)]
    taps = ir.alloc((1,), "int32")
    zero = conv.x_zero
    skipped = packed[group, j]
    whole = plan.pixels // together

    if plan.shared:
        per_group = conv.out_channels // conv.groups
        mine = tirx.min(tirx.floordiv(group * plan.group, per_group), conv.groups - 1)
        with ir.serial(plan.pixels // lanes) as v:
            total = totals[n, mine, ir.lanes_at(block * plan.pixels + v * lanes, lanes)]
            if zero:
                total = total - ir.const(zero * work.taps, "int32", lanes)
            ir.store(sums, total, skipped, ir.lanes_at(v * lanes, lanes))
    labels = values - 1 if plan.shared else values
    with ir.serial(labels) as index:
        label = index + 1 if plan.shared else index
        code = index + ir.cast(index >= skipped, "int32") if plan.shared else index

        def pattern(high: Any, low: Any) -> Any:
            return (high * values + label) * below + low

        if zero:
            ir.store(taps, tirx.const(0, "int32"), 0)
            with ir.serial(above) as high, ir.serial(below) as low:
                p = pattern(high, low) + plan.group
                ir.store(taps, taps[0] + (packed[group, p + 1] - packed[group, p]), 0)
        with ir.serial(whole) as part:
            for v in spans:
                ir.store(acc, ir.const(0, "int32", lanes), v)
            with ir.serial(above) as high, ir.serial(below) as low:
                for k, v in enumerate(spans):
                    where = ir.lanes_at(part * together + k * lanes, lanes)
                    term = ir.cast(patterns[pattern(high, low), where], "int32", lanes)
                    ir.store(acc, acc[v] + term, v)
            for k, v in enumerate(spans):
                where = ir.lanes_at(part * together + k * lanes, lanes)
                total = acc[v]
                if zero:
                    total = total - ir.splat(taps[0] * zero, lanes)
                ir.store(sums, total, code, where)
                if plan.shared:
                    rest = sums[skipped, where] - total
                    ir.store(sums, rest, skipped, where)
    return sums
