"""Kernels of a memory network that work on one key or row at a time: format, sum, output."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target

_ACCUMULATORS = 8


def emit_convert(
    target: Target, src: FixedPoint, dst: FixedPoint, codes: Matrix, out: Matrix
) -> None:
    """Write ``spec.fixed_convert``."""

    def body(row: Any, start: int, lanes: int) -> Any:
        value = ir.cast(codes.load(row, start, lanes), "int32", lanes)
        return memory.convert(value, src, dst, "int32", lanes, src.limit)

    _each(target, out, codes.padded, body)


def emit_add(target: Target, fmt: FixedPoint, a: Matrix, b: Matrix, out: Matrix) -> None:
    """Write ``spec.fixed_add``."""

    def body(row: Any, start: int, lanes: int) -> Any:
        first, second = (ir.cast(x.load(row, start, lanes), "int32", lanes) for x in (a, b))
        return memory.clip(first + second, fmt.limit, "int32", lanes)

    _each(target, out, a.padded and b.padded, body)


def _each(target: Target, out: Matrix, padded: bool, body: Any) -> None:
    lanes, starts = memory.pieces(
        out.width, memory.lanes_of(target, "int32"), padded and out.padded
    )
    with T.serial(out.rows) as row:
        for start in starts:
            value = ir.cast(body(row, start, lanes), out.dtype, lanes)
            out.store(value, row, start, lanes)


def emit_output(
    target: Target, fmt: FixedPoint, weights: Matrix, keys: Matrix, out: Matrix
) -> None:
    """Write ``spec.fixed_output``: logits float32 [N, A].

    Answers are lanes, so that the sums over the key run in the order of the definition.

    Args:
        target: the device.
        fmt: format of the keys.
        weights: float32, transposed: one row for each element of a key.
        keys: codes [N, E].
        out: logits.
    """
    lanes, starts = memory.pieces(
        out.width, memory.lanes_of(target, "float32"), weights.padded and out.padded
    )
    unit = tirx.const(2.0**-fmt.fraction, "float32")
    with T.serial(keys.rows) as n:
        for first in range(0, len(starts), _ACCUMULATORS):
            group = starts[first : first + _ACCUMULATORS]
            totals = [ir.alloc((lanes,), "float32") for _ in group]
            every = ir.lanes_at(0, lanes)
            for total in totals:
                ir.store(total, ir.const(0.0, "float32", lanes), every)
            with T.serial(keys.width) as e:
                value = T.Bind(ir.cast(keys.load(n, e), "float32") * unit)
                for total, start in zip(totals, group, strict=True):
                    scaled = weights.load(e, start, lanes) * ir.splat(value, lanes)
                    ir.store(total, total[every] + ir.unfused(scaled, lanes), every)
            for total, start in zip(totals, group, strict=True):
                out.store(total[every], n, start, lanes)
