"""The weights of the family ``taps``: the taps of each group of channels, sorted by their codes.

A row of the packed weights belongs to a group of output channels: the code that each of them skips,
where the taps of each pattern of codes end, and then the offsets of the taps. A pattern is a number
with one digit of base M for each channel, the first channel first; digits are codes, or where one
code is skipped, labels: 0 for that code and 1 to M - 1 for the others in their order. Channels
that the last group lacks have digits that count the taps, so that its patterns are as short as
those of other groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.codebook_plan import TapsPlan
from tvm_qnn.schedules.ir import STATIC_ATTRS
from tvm_qnn.schedules.prepare import stream_index
from tvm_qnn.spec import packed_bytes


def longest_pattern(work: CodebookWork, plan: TapsPlan, weights: NDArray[Any]) -> int:
    """Return the most taps that one pattern of codes has, less those skipped, for indices OHWI."""
    flat = np.asarray(weights, np.int64).reshape(work.conv.out_channels, -1)
    most = 0
    taps = np.arange(flat.shape[1])
    for first in range(0, len(flat), plan.group):
        pattern, skipped = np.zeros(flat.shape[1], np.int64), 0
        for j in range(plan.group):
            codes, skip = taps // work.values ** max(0, j - 1) % work.values, 0
            if first + j < len(flat):
                codes = flat[first + j]
                skip = int(np.bincount(codes).argmax())
            pattern = pattern * work.values + codes
            skipped = skipped * work.values + skip
        count = np.bincount(pattern, minlength=skipped + 1)
        if plan.shared:
            count[skipped] = 0
        most = max(most, int(count.max()))
    return most


def row_type(work: CodebookWork, plan: TapsPlan) -> tuple[tuple[int, int], str]:
    """Return the shape and dtype of the packed weights."""
    return (plan.groups(work), plan.header(work) + work.taps), "int32"


def sort_func(work: CodebookWork, plan: TapsPlan) -> Any:
    """Return the PrimFunc ``(stream uint8, packed)`` that sorts the taps."""
    conv, size, values = work.conv, plan.group, work.values
    (groups, width), dtype = row_type(work, plan)
    outputs, patterns, header = conv.out_channels, plan.patterns(work), plan.header(work)
    _, kh, kw, channels = conv.weight_shape
    with ir.function("prepare") as finished:
        count = outputs * work.taps
        stream = ir.argument("stream", (packed_bytes(count, conv.w.bits),), "uint8")
        packed = ir.argument("packed", (groups, width), dtype)
        codes = ir.alloc((outputs, work.taps), "uint8")
        with ir.stage("codes", (outputs, work.taps)) as (o, k):
            index = stream_index(stream, o * work.taps + k, conv.w.bits)
            ir.store(codes, index.astype("uint8"), o, k)
        with ir.stage("sort", (groups,)) as (g,):
            ir.accesses([codes[0:outputs, 0 : work.taps]], [packed[g, 0:width]])
            used = ir.alloc((max(values, patterns),), "int32")

            def zero(number: int) -> None:
                with ir.serial(number) as i:
                    ir.store(used, tirx.const(0, "int32"), i)

            def add_one(at: Any) -> None:
                ir.store(used, used[at] + 1, at)

            def code(j: int, k: Any) -> Any:
                return ir.cast(codes[tirx.min(g * size + j, outputs - 1), k], "int32")

            for j in range(size):
                ir.store(packed, tirx.const(0, "int32"), g, j)
                if plan.shared:
                    zero(values)
                    with ir.serial(work.taps) as k:
                        add_one(code(j, k))
                    with ir.serial(values) as m:
                        best = tirx.Select(used[m] > used[packed[g, j]], m, packed[g, j])
                        ir.store(packed, best, g, j)

            def pattern(k: Any) -> Any:
                number: Any = tirx.const(0, "int32")
                for j in range(size):
                    digit = code(j, k)
                    if plan.shared:
                        skipped = packed[g, j]
                        digit = digit + ir.cast(digit < skipped, "int32")
                        digit = tirx.Select(code(j, k) == skipped, tirx.const(0, "int32"), digit)
                    spare = tirx.floormod(tirx.floordiv(k, values ** max(0, j - 1)), values)
                    digit = tirx.Select(g * size + j < outputs, digit, spare)
                    number = number * values + digit
                return number

            zero(patterns)
            with ir.serial(work.taps) as k:
                add_one(pattern(k))
            if plan.shared:
                ir.store(used, tirx.const(0, "int32"), 0)
            ir.store(packed, tirx.const(0, "int32"), g, size)
            with ir.serial(patterns) as p:
                ir.store(packed, packed[g, size + p] + used[p], g, size + p + 1)
                ir.store(used, packed[g, size + p], p)
            # The taps of one channel are neighbours, which keeps its plane in the first cache.
            first = 0
            if conv.groups > 1:
                per_group = conv.out_channels // conv.groups
                first = tirx.floordiv(g * size, per_group) * channels
            with ir.serial(channels) as c, ir.serial(kh) as i, ir.serial(kw) as w:
                k = (i * kw + w) * channels + c
                at = pattern(k)
                with ir.guard(at > 0 if plan.shared else None):
                    offset = plan.offset(conv, first + c, i, w)
                    ir.store(packed, offset - plan.machine.bias, g, header + used[at])
                    add_one(at)
    return finished().with_attrs({**STATIC_ATTRS, "global_symbol": "prepare"})
