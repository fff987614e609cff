"""Family ``dot`` on AArch64: int8 products, SDOT where the core has it, else SMULL and SADALP.

``by_lane`` multiplies four channels by one group of four activations (SDOT by element); its
accumulators are outputs. The other methods keep partial sums of one output in the lanes of an
accumulator: ``pairs`` sums two products in 16 bits before they are widened, which -128 * -128 * 2
would overflow, so one operand must stay above -128; ``singles`` widens every product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import Plan, ceil_div
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import Packed, TiledFamily
from tvm_qnn.targets.record import Target

_STEP = 16
_BYTES = arm_tile.LANES * _STEP


@dataclass(frozen=True)
class Method:
    """How sixteen products are added.

    Attributes:
        name: of the method.
        x_range: activation digits that it takes.
        w_range: weight digits that it takes.
        by_lane: accumulators are outputs, not partial sums.
    """

    name: str
    x_range: tuple[int, int]
    w_range: tuple[int, int]
    by_lane: bool = False

    def digits(self, work: ConvWork) -> tuple[Digits, Digits] | None:
        """Return digits that the method multiplies exactly, None if the codes do not fit."""
        x = kept_digits(work.x, work.x_zero, *self.x_range)
        w = fitting_digits(work.w, work.w_zero, *self.w_range)
        return None if x is None or w is None else (x, w)


_FULL, _SYMMETRIC = (-128, 127), (-127, 127)
BY_LANE = Method("by_lane", _FULL, _FULL, by_lane=True)
PAIRS = (Method("pairs", _FULL, _SYMMETRIC), Method("pairs", _SYMMETRIC, _FULL))
SINGLES = Method("singles", _FULL, _FULL)


def method(work: ConvWork, target: Target) -> Method | None:
    """Return the fastest method of the target that is exact for the work."""
    offered = (BY_LANE,) if "dotprod" in target.features else (*PAIRS, SINGLES)
    return next((m for m in offered if m.digits(work) is not None), None)


def steps_of(work: ConvWork) -> int:
    """Return the steps of sixteen products that K takes."""
    return ceil_div(work.kernel[0] * work.kernel[1] * work.in_channels, _STEP)


class ArmDot(TiledFamily):
    """8-bit convolutions and matrix products with one group of channels."""

    name = "dot"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if work.groups != 1:
            return Refusal(self.name, f"{work.groups} channel groups", "reference takes them")
        if work.x_planes:
            return Refusal(self.name, "activations come as bit planes", "hand over codes")
        if method(work, target) is None:
            reason = f"codes {work.x} and {work.w} with their zero points do not fit int8"
            return Refusal(self.name, reason, "at most 8 bits")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, steps = self.plan(work, target), steps_of(work)
        slower = 4 / 3 if self._method(work, target) == SINGLES else 1
        output = steps * _STEP * slower / target.rates.dot + arm_tile.output_cycles(target)
        per_vector = 2 if work.in_channels % _STEP == 0 else 16
        return plan.width_stored * (plan.channels * output + per_vector * steps)

    def _method(self, work: ConvWork, target: Target) -> Method:
        chosen = method(work, target)
        assert chosen is not None, "supports() was not asked"
        return chosen

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        found = self._method(work, target).digits(work)
        assert found is not None
        return found

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        if self._method(work, target).by_lane:
            return arm_tile.output_plan(work, arm_tile.Shape(registers=16, ops=4, loads=4))
        # LLVM unrolls the loop of pairs four times for the A53, and spills with more accumulators.
        small = target.cpu == arm_tile.IN_ORDER and self._method(work, target) != SINGLES
        registers = 4 if small else 16
        shape = arm_tile.Shape(registers=registers, ops=12, loads=4, per_block=4)
        return arm_tile.output_plan(work, shape)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        digits, chosen = self.digits(work, target)[1], self._method(work, target)
        kw, c = work.kernel[1], work.in_channels
        positions = work.kernel[0] * kw

        def layout(indices: Any) -> Callable[..., Any]:
            def digit(block: Any, step: Any, quarter: Any, place: Any) -> Any:
                channel, k = quarter, place
                if chosen.by_lane:
                    channel = tirx.floordiv(place, 4)
                    k = quarter * 4 + tirx.floormod(place, 4)
                at = step * _STEP + k
                # What lies beyond the window lies beyond the channels of its last position: 0.
                position = tirx.min(tirx.floordiv(at, c), positions - 1)
                i, j = tirx.floordiv(position, kw), tirx.floormod(position, kw)
                o = block * arm_tile.LANES + channel
                return weight_digit(indices, digits, "int8", o, i, j, at - position * c)

            return digit

        columns = self.plan(work, target).columns
        return Packed((columns, steps_of(work), arm_tile.LANES, _STEP), "int8", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, digits = self.plan(work, target), self.digits(work, target)[0]
        if not (digits.identity and work.x.dtype == "int8" and not any(work.padding)):
            x = stages.pad_digits(
                x, work, arm_tile.input_plan(work), digits, "int8", correction.fill,
                work.in_channels,
            )  # fmt: skip
        panel = arm_tile.emit_panel(x, work, plan, None, steps_of(work), "int8")
        window_sums = None
        if correction.slope is not None:
            window_sums = _emit_window_sums(panel, work, plan)
        chosen = self._method(work, target)
        emit = _emit_by_lane if chosen.by_lane else _emit_partial
        return emit(panel, w, plan, steps_of(work), chosen), window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        plan = self.plan(work, target)
        tile = arm_tile.default_tile(plan, target, steps_of(work) * _STEP)
        by_lane = self._method(work, target).by_lane
        nest = arm_tile.schedule_tiles(sch, work, plan, tile, reduced=not by_lane)
        block = sch.get_sblock("dot")
        sch.compute_at(block, nest.tile, preserve_unit_loops=True)
        pixel, channel, k = sch.get_loops(block)[nest.depth :]
        sch.reorder(k, pixel, channel)
        init = sch.decompose_reduction(block, k)
        arm_tile.unroll(sch, [*sch.get_loops(init)[nest.depth :], pixel, channel])
        arm_tile.schedule_panel(sch, nest)


def _emit_by_lane(panel: Any, w: Any, plan: Plan, steps: int, chosen: Method) -> Sums:
    """Write block ``dot`` whose accumulators are outputs; return them."""
    sums = ir.alloc((plan.width_stored, plan.channels), "int32")
    with ir.stage("dot", (plan.width_stored, plan.columns), (steps,)) as (p, block, k):
        at = ir.lanes_at(block * arm_tile.LANES, arm_tile.LANES)
        with ir.init():
            ir.store(sums, ir.const(0, "int32", arm_tile.LANES), p, at)
        groups = tirx.reinterpret("int32x4", panel[p, 0, ir.lanes_at(k * _STEP, _STEP)])
        total = sums[p, at]
        for quarter in range(4):
            four = tirx.reinterpret("int8x16", tirx.Shuffle([groups], [quarter] * 4))
            vector = w[block, k, quarter, ir.lanes_at(0, _STEP)]
            total = ir.intrinsic(
                "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, vector, four
            )
        ir.store(sums, total, p, at)
    return lambda n, h, v, block: sums[v, ir.lanes_at(block * arm_tile.LANES, arm_tile.LANES)]


def _emit_partial(panel: Any, w: Any, plan: Plan, steps: int, chosen: Method) -> Sums:
    """Write block ``dot`` with partial sums in lanes, and their reduction; return the sums."""
    lanes = ir.alloc((plan.width_stored, plan.channels * arm_tile.LANES), "int32")
    with ir.stage("dot", (plan.width_stored, plan.channels), (steps,)) as (p, o, k):
        at = ir.lanes_at(o * arm_tile.LANES, arm_tile.LANES)
        with ir.init():
            ir.store(lanes, ir.const(0, "int32", arm_tile.LANES), p, at)
        block, channel = tirx.floordiv(o, arm_tile.LANES), tirx.floormod(o, arm_tile.LANES)
        a = panel[p, 0, ir.lanes_at(k * _STEP, _STEP)]
        b = w[block, k, channel, ir.lanes_at(0, _STEP)]
        ir.store(lanes, _add_products(lanes[p, at], a, b, chosen), p, at)

    def quad(p: Any, block: Any, piece: Any) -> Any:
        first = block * arm_tile.LANES
        vectors = [
            lanes[p, ir.lanes_at((first + i) * arm_tile.LANES, arm_tile.LANES)]
            for i in range(arm_tile.LANES)
        ]
        return arm_tile.pairwise_tree(vectors, "int32")

    return arm_tile.emit_reduce(plan, 1, quad)


def _add_products(total: Any, a: Any, b: Any, chosen: Method) -> Any:
    """Add sixteen products of int8 to four int32 lanes."""

    def half(v: Any, first: int) -> Any:
        return tirx.Shuffle([v], list(range(first, first + 8)))

    low, high = (
        ir.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(a, i), half(b, i))
        for i in (0, 8)
    )

    def widened(v: Any) -> Any:
        return ir.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", v)

    if chosen.name == "pairs":
        return total + widened(low + high)
    return (total + widened(low)) + widened(high)


def _emit_window_sums(panel: Any, work: ConvWork, plan: Plan) -> Any:
    """Write block ``window_sum``: the sums of the digits under the kernel, [1, 1, pixels, 1]."""
    sums = ir.alloc((1, 1, plan.width_stored, 1), "int32")
    window = work.kernel[0] * work.kernel[1] * work.in_channels
    with ir.stage("window_sum", (plan.width_stored,), (window,)) as (p, k):
        with ir.init():
            ir.store(sums, tirx.const(0, "int32"), 0, 0, p, 0)
        ir.store(sums, sums[0, 0, p, 0] + ir.cast(panel[p, 0, k], "int32"), 0, 0, p, 0)
    return sums
