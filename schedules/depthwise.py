"""Depthwise convolutions of the family ``dot``: one product for each tap, channels in lanes.

Digits of channels widen to 32 bits, are multiplied with the weights [C / lanes, KH, KW, lanes] of
a tap and added; the taps are unrolled, so that neighbouring output pixels share widened loads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir, stages
from tvm_qnn.schedules.algebra import (
    Correction,
    Digits,
    index_digits,
    value_digits,
)
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import Plan, make_plan
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import EPILOGUE_CYCLES, Packed, TiledFamily
from tvm_qnn.schedules.tiling import schedule_tiles
from tvm_qnn.targets.record import Target

MOST_UNROLLED_TAPS = 25


class Depthwise(TiledFamily):
    """Convolutions with one input channel for each output channel."""

    name = "dot"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if not work.depthwise:
            return Refusal(self.name, "not depthwise")
        if work.x_planes:
            return Refusal(self.name, "activations come as bit planes", "hand over codes")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, (_, w) = self.plan(work, target), self.digits(work, target)
        outputs = plan.batch * plan.height * plan.width_stored * plan.columns
        taps = work.kernel[0] * work.kernel[1]
        sums = outputs * taps if any(w.offsets) else 0
        return outputs * (taps * 0.7 + EPILOGUE_CYCLES) + sums

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """Store activation codes as they are, and values of weights."""
        one_zero = len(set(work.w_zero)) == 1
        x = (
            index_digits(work.x, (work.x_zero,), work.x.lo)
            if work.x.step == 1
            else value_digits(work.x, work.x_zero)
        )
        w = value_digits(work.w, work.w_zero[0]) if one_zero else index_digits(work.w, work.w_zero)
        return x, w

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        # Neighbouring pixels share widened loads, channels share nothing.
        lanes = target.vector_bytes // 4
        return make_plan(work, lanes, registers=10, update=2.0, loads=2.0, most_blocks=1)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        plan, digits = self.plan(work, target), self.digits(work, target)[1]
        small = digits.lo >= -(2**15) and digits.hi < 2**15
        dtype = "int16" if small else "int32"
        shape = (plan.columns, *work.kernel, plan.lanes)

        def layout(indices: Any) -> Callable[..., Any]:
            return lambda block, i, j, lane: weight_digit(
                indices, digits, dtype, block * plan.lanes + lane, i, j, tirx.const(0, "int32")
            )

        return Packed(shape, dtype, layout, plan.lanes)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, digits = self.plan(work, target), self.digits(work, target)[0]
        lanes, dtype = plan.lanes, work.x.dtype if digits.identity else "int32"
        if (
            not digits.identity
            or stages.needs_padding(work, plan)
            or plan.flat
            or (plan.channels != work.in_channels)
        ):
            x = stages.pad_digits(x, work, plan, digits, dtype, correction.fill, plan.channels)
        window_sums = None
        if correction.slope is not None:
            window_sums = stages.sum_windows(
                work, plan, lambda n, h, w, c: ir.cast(x[n, h, w, c], "int32"), (), plan.channels
            )
        acc = ir.alloc((plan.batch, plan.height, plan.width_stored, plan.channels), "int32")
        spatial = (plan.batch, plan.height, plan.width_stored, plan.columns)
        with ir.stage("acc", spatial, work.kernel) as (n, h, v, o, i, j):
            to = ir.lanes_at(o * lanes, lanes)
            with ir.init():
                ir.store(acc, ir.const(0, "int32", lanes), n, h, v, to)
            row, column = stages.tap(work, h, v, i, j)
            product = ir.cast(x[n, row, column, to], "int32", lanes) * ir.cast(
                w[o, i, j, ir.lanes_at(0, lanes)], "int32", lanes
            )
            ir.store(acc, acc[n, h, v, to] + product, n, h, v, to)
        return lambda n, h, v, o: acc[n, h, v, ir.lanes_at(o * lanes, lanes)], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        unroll = work.kernel[0] * work.kernel[1] <= MOST_UNROLLED_TAPS
        schedule_tiles(sch, work, self.plan(work, target), unroll_taps=unroll)
