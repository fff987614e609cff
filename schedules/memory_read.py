"""Kernels of the read from a memory: softmax on codes, and the weighted sum of the slots."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.schedules.memory_bag import BagRows
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target

_UNROLLED = 4
_WORD_BYTES = 8


def emit_softmax(
    target: Target, fmt: FixedPoint, scores: Matrix, valid: Matrix, table: Matrix, out: Matrix
) -> None:
    """Write ``spec.fixed_softmax`` of scores [N, L].

    The quotient is taken in float64. That is exact: numerator and denominator are integers below
    2**53, and a quotient below an integer stays so far below that rounding does not reach it.

    Args:
        target: the device.
        fmt: format of scores and probabilities.
        scores: codes.
        valid: 1 for slots that count, else 0.
        table: ``spec.fixed.softmax_table``, int32, one row.
        out: probabilities.
    """
    slots = scores.width
    weights = memory.local_row(slots, "int32")
    with T.serial(scores.rows) as n:
        largest = T.Bind(_largest(target, fmt, scores, valid, n))
        total = ir.alloc((1,), "int64")
        ir.store(total, tirx.const(0, "int64"), 0)
        with T.serial(slots) as slot:
            distance = largest - ir.cast(scores.load(n, slot), "int32")
            # Scores of slots that do not count may be larger; they are clipped to a valid index.
            index = tirx.max(tirx.min(distance, 2 * fmt.limit), 0)
            used = valid.load(n, slot) != tirx.const(0, "int8")
            weight = tirx.Select(used, table.load(0, index), tirx.const(0, "int32"))
            weights.store(weight, 0, slot)
            ir.store(total, total[0] + ir.cast(weights.load(0, slot), "int64"), 0)
        sum_ = T.Bind(ir.cast(tirx.max(total[0], tirx.const(1, "int64")), "float64"))
        with T.serial(slots) as slot:
            scaled = ir.cast(weights.load(0, slot), "float64") * tirx.const(
                2.0**fmt.fraction, "float64"
            )
            share = tirx.min(ir.cast(scaled / sum_, "int32"), fmt.limit)
            out.store(ir.cast(share, out.dtype), n, slot)


def _largest(target: Target, fmt: FixedPoint, scores: Matrix, valid: Matrix, n: Any) -> Any:
    """Return the largest score that counts, int32."""
    slots, dtype = scores.width, scores.dtype
    lanes, _ = memory.pieces(slots, memory.lanes_of(target, dtype), padded=False)
    every = ir.lanes_at(0, lanes)
    best = ir.alloc((lanes,), dtype)
    lowest = ir.const(-fmt.limit, dtype, lanes)
    ir.store(best, lowest, every)

    def step(start: Any) -> None:
        used = valid.load(n, start, lanes) != ir.const(0, "int8", lanes)
        score = tirx.Select(used, scores.load(n, start, lanes), lowest)
        ir.store(best, tirx.max(best[every], score), every)

    whole = slots // lanes
    if whole <= _UNROLLED:
        for i in range(whole):
            step(i * lanes)
    else:
        with T.serial(whole) as i:
            step(i * lanes)
    if slots % lanes:
        step(slots - lanes)
    if lanes == 1:
        return ir.cast(best[0], "int32")
    return ir.cast(ir.intrinsic(dtype, "llvm.vector.reduce.smax", best[every]), "int32")


def emit_read(
    target: Target, fmt: FixedPoint, p: Matrix, rows: Matrix | BagRows, out: Matrix
) -> None:
    """Write ``spec.fixed_read``: sums [N, E] of rows [N * L, E] with weights [N, L].

    Most probabilities are 0, since all together make no more than 1: their rows are not read, and
    not embedded either where ``rows`` are embeddings.
    """
    padded = isinstance(rows, BagRows) or rows.padded
    slots = p.width
    dtype = "int16" if fmt.bits <= 8 else "int32"
    sum_dtype = memory.working_dtype(slots * fmt.limit) if dtype == "int16" else dtype
    lanes, starts = memory.pieces(out.width, memory.lanes_of(target, dtype), padded and out.padded)
    totals = ir.alloc((len(starts) * lanes,), sum_dtype)
    together = _WORD_BYTES // (1 if p.dtype == "int8" else 2)

    with T.serial(p.rows) as n:

        def add(slot: Any) -> None:
            weight = T.Bind(ir.cast(p.load(n, slot), dtype))
            with ir.guard(weight != tirx.const(0, dtype)):
                row = n * slots + slot
                source, row = (rows.emit(row), 0) if isinstance(rows, BagRows) else (rows, row)
                for i, start in enumerate(starts):
                    codes = ir.cast(source.load(row, start, lanes), dtype, lanes)
                    value = memory.product(codes, ir.splat(weight, lanes), fmt, dtype, lanes)
                    at = ir.lanes_at(i * lanes, lanes)
                    ir.store(totals, totals[at] + ir.cast(value, sum_dtype, lanes), at)

        for i in range(len(starts)):
            ir.store(totals, ir.const(0, sum_dtype, lanes), ir.lanes_at(i * lanes, lanes))
        with T.serial(slots // together) as word:
            any_ = tirx.reinterpret("int64", p.load(n, word * together, together))
            with ir.guard(any_ != tirx.const(0, "int64")), T.serial(together) as i:
                add(word * together + i)
        if slots % together:
            with T.serial(slots % together) as i:
                add(slots // together * together + i)
        for i, start in enumerate(starts):
            total = totals[ir.lanes_at(i * lanes, lanes)]
            codes = memory.clip(total, fmt.limit, sum_dtype, lanes)
            out.store(ir.cast(codes, out.dtype, lanes), n, start, lanes)
