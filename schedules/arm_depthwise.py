"""Depthwise convolutions of the family ``dot`` on AArch64: int8 products, channels in lanes.

Products of as many taps as 16 bits hold are added there (SMULL, SMLAL), then widened to 32 bits
(SADDW): two taps of full 8-bit codes, all taps of a kernel where the codes are narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import arm_tile, ir, stages
from tvm_qnn.schedules.algebra import (
    Correction,
    Digits,
    fitting_digits,
    kept_digits,
)
from tvm_qnn.schedules.epilogue import has_result, out_blocks
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import Plan, make_plan
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import EPILOGUE_CYCLES, Packed, TiledFamily
from tvm_qnn.schedules.tiling import split_tile
from tvm_qnn.targets.record import Target

_LANES = 8
_RANGE = (-128, 127)
_MOST_TAPS = 64


def operands(work: ConvWork) -> tuple[Digits, Digits] | None:
    """Return int8 digits of activations and weights, None if the codes do not fit."""
    x = kept_digits(work.x, work.x_zero, *_RANGE)
    w = fitting_digits(work.w, work.w_zero, *_RANGE)
    return None if x is None or w is None else (x, w)


def taps_in_16_bits(x: Digits, w: Digits) -> int:
    """Return how many products int16 holds in sum."""
    largest = max(abs(a * b) for a in (x.lo, x.hi) for b in (w.lo, w.hi))
    return (2**15 - 1) // max(1, largest)


class ArmDepthwise(TiledFamily):
    """Convolutions with one input channel for each output channel, codes of up to 8 bits."""

    name = "dot"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if not work.depthwise:
            return Refusal(self.name, "not depthwise")
        if work.x_planes:
            return Refusal(self.name, "activations come as bit planes", "hand over codes")
        if work.kernel[0] * work.kernel[1] > _MOST_TAPS:
            return Refusal(self.name, f"{work.kernel} taps would be unrolled")
        if operands(work) is None:
            return Refusal(self.name, f"codes {work.x} and {work.w} do not fit int8")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, (x, w) = self.plan(work, target), self.digits(work, target)
        taps = work.kernel[0] * work.kernel[1]
        # One product and its loads, and two additions for each sum that is widened.
        output = taps * 1.5 + 2 * taps / min(taps, taps_in_16_bits(x, w)) + 2 * EPILOGUE_CYCLES
        slower = 2 if target.cpu == arm_tile.IN_ORDER else 1
        outputs = plan.batch * plan.height * plan.width_stored * plan.columns
        return outputs * slower * (output + (taps if any(w.offsets) else 0))

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        found = operands(work)
        assert found is not None, "supports() was not asked"
        return found

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        return make_plan(work, _LANES, registers=6, update=2.0, loads=1.0)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        digits = self.digits(work, target)[1]
        shape = (self.plan(work, target).columns, *work.kernel, _LANES)

        def layout(indices: Any) -> Callable[..., Any]:
            return lambda block, i, j, lane: weight_digit(
                indices, digits, "int8", block * _LANES + lane, i, j, tirx.const(0, "int32")
            )

        return Packed(shape, "int8", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, (x_digits, w_digits) = self.plan(work, target), self.digits(work, target)
        direct = x_digits.identity and work.x.dtype == "int8" and not plan.flat
        if stages.needs_padding(work, plan) or plan.channels != work.in_channels or not direct:
            x = stages.pad_digits(x, work, plan, x_digits, "int8", correction.fill, plan.channels)
        window_sums = None
        if correction.slope is not None:
            window_sums = stages.sum_windows(
                work, plan, lambda n, h, v, c: ir.cast(x[n, h, v, c], "int32"), (), plan.channels
            )
        spatial = (plan.batch, plan.height, plan.width_stored)
        acc = ir.alloc((*spatial, plan.channels), "int32")
        together = taps_in_16_bits(x_digits, w_digits)
        taps = [(i, j) for i in range(work.kernel[0]) for j in range(work.kernel[1])]
        with ir.stage("acc", (*spatial, plan.columns)) as (n, h, v, o):
            to = ir.lanes_at(o * _LANES, _LANES)
            total = None
            for first in range(0, len(taps), together):
                narrow = None
                for i, j in taps[first : first + together]:
                    row, column = stages.tap(work, h, v, i, j)
                    product = ir.intrinsic(
                        "int16x8", "llvm.aarch64.neon.smull.v8i16",
                        x[n, row, column, to], w[o, i, j, ir.lanes_at(0, _LANES)],
                    )  # fmt: skip
                    narrow = product if narrow is None else narrow + product
                wide = ir.cast(narrow, "int32", _LANES)
                total = wide if total is None else total + wide
            ir.store(acc, total, n, h, v, to)
        return lambda n, h, v, o: acc[n, h, v, ir.lanes_at(o * _LANES, _LANES)], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        plan = self.plan(work, target)
        n, h, w, c = sch.get_loops(sch.get_sblock("out"))
        w_outer, w_inner = split_tile(sch, w, plan.rows)
        c_outer, c_inner = split_tile(sch, c, out_blocks(work, plan))
        sch.reorder(n, h, w_outer, c_outer, w_inner, c_inner)
        sch.parallel(sch.fuse(n, h))
        unrolled = [w_inner, c_inner]
        for name in ["result", "acc"] if has_result(work, plan) else ["acc"]:
            block = sch.get_sblock(name)
            sch.compute_at(block, c_outer, preserve_unit_loops=True)
            unrolled += sch.get_loops(block)[-2:]
        for loop in unrolled:
            sch.unroll(loop)
