"""Family ``bitserial`` on AArch64: AND, byte-wise popcount (CNT), pairwise accumulation (UADALP).

Accumulators are eight lanes of uint16 along K, 128 bits of one plane a step. The products of plane
pairs (a, w) with equal weight 2**(a + w) are counted together: heavier pairs come first, and the
accumulators double from one weight to the next (Horner's rule).

One step adds at most 16 to a lane, so a lane holds at most ``16 * steps * (2**A - 1) * (2**W - 1)``
after ``steps`` steps; K is cut into pieces for which that fits 16 bits, and pieces are summed in
int32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import arm_tile, ir, stages
from tvm_qnn.schedules.algebra import Correction, Digits, index_digits
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.prepare import plane_word
from tvm_qnn.schedules.tiled import Packed, TiledFamily
from tvm_qnn.targets.record import Target

_WORDS = arm_tile.VECTOR_BITS // WORD
_LANES = 8
_LANE_MAX = 2**16 - 1
_STEP_MAX = 16


def piece_limit(work: ConvWork) -> int:
    """Return how many 128-bit steps uint16 lanes can hold; 0 if not even one."""
    heaviest = (2**work.x.bits - 1) * (2**work.w.bits - 1)
    return _LANE_MAX // (_STEP_MAX * heaviest)


def steps_of(work: ConvWork) -> tuple[int, int]:
    """Return (pieces, steps of 128 bits in each) that K takes."""
    words = work.kernel[0] * work.kernel[1] * ceil_div(work.in_channels, WORD)
    steps = ceil_div(words, _WORDS)
    pieces = ceil_div(steps, piece_limit(work))
    return pieces, ceil_div(steps, pieces)


class ArmBitSerial(TiledFamily):
    """Bit-serial convolutions and matrix products with one group of channels."""

    name = "bitserial"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if work.groups != 1:
            return Refusal(self.name, f"{work.groups} channel groups", "reference takes them")
        if piece_limit(work) == 0:
            bits = f"{work.w.bits}-bit weights by {work.x.bits}-bit activations"
            return Refusal(self.name, f"{bits} overflow 16-bit lanes", "dot takes them")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        pieces, steps = steps_of(work)
        plan = self.plan(work, target)
        bits = pieces * steps * arm_tile.VECTOR_BITS * work.x.bits * work.w.bits
        gather = 2 * pieces * steps * work.x.bits
        output = bits / target.rates.bitserial + arm_tile.output_cycles(target) + pieces
        return plan.width_stored * (plan.channels * output + gather)

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        return index_digits(work.x, (work.x_zero,)), index_digits(work.w, work.w_zero)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        registers = 16 if target.cpu == arm_tile.IN_ORDER else 20
        shape = arm_tile.Shape(registers, ops=12, loads=4, per_block=arm_tile.LANES)
        return arm_tile.output_plan(work, shape)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        pieces, steps = steps_of(work)
        digits = self.digits(work, target)[1]
        kw, words = work.kernel[1], ceil_div(work.in_channels, WORD)
        positions = work.kernel[0] * kw

        def layout(indices: Any) -> Callable[..., Any]:
            def word(block: Any, piece: Any, plane: Any, k: Any, channel: Any, e: Any) -> Any:
                at = (piece * steps + k) * _WORDS + e
                # Words beyond the window lie beyond the channels of its last position: they are 0.
                position = tirx.min(tirx.floordiv(at, words), positions - 1)
                i, j = tirx.floordiv(position, kw), tirx.floormod(position, kw)
                o = block * arm_tile.LANES + channel
                return plane_word(indices, digits, plane, o, i, j, at - position * words)

            return word

        columns = self.plan(work, target).columns
        shape = (columns, pieces, work.w.bits, steps, arm_tile.LANES, _WORDS)
        return Packed(shape, "uint32", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, (pieces, steps) = self.plan(work, target), steps_of(work)
        planes = self._planes(work, target, x, correction.fill)
        panel = arm_tile.emit_panel(planes, work, plan, work.x.bits, pieces * steps, "uint32")
        window_sums = None
        if correction.slope is not None:
            window_sums = _emit_window_sums(panel, work, plan)
        sums = arm_tile.emit_reduce(plan, pieces, _quad(_emit_counts(panel, w, work, plan)))
        return sums, window_sums

    def _planes(self, work: ConvWork, target: Target, x: Any, fill: int) -> Any:
        """Return padded bit planes [N, H, W, bits, words] of the activations."""
        inner = arm_tile.input_plan(work)
        if work.x_planes:
            return stages.pad_planes(x, work, inner, fill) if any(work.padding) else x
        channels = ceil_div(work.in_channels, WORD) * WORD
        digits = self.digits(work, target)[0]
        padded = stages.pad_digits(x, work, inner, digits, "uint8", fill, channels)
        return stages.pack_planes(padded, work.x.bits, stages.pack_word_for(target))

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        plan, (pieces, steps) = self.plan(work, target), steps_of(work)
        pixel_bytes = pieces * steps * work.x.bits * arm_tile.VECTOR_BITS // 8
        tile = arm_tile.default_tile(plan, target, pixel_bytes)
        nest = arm_tile.schedule_tiles(sch, work, plan, tile)
        for group in reversed(range(len(_groups(work)))):
            block = sch.get_sblock(f"count_{group}")
            sch.compute_at(block, nest.tile, preserve_unit_loops=True)
            pixel, piece, channel, pair, k = sch.get_loops(block)[nest.depth :]
            sch.reorder(piece, pair, k, pixel, channel)
            init = sch.decompose_reduction(block, pair)
            arm_tile.unroll(sch, sch.get_loops(init)[nest.depth :])
            arm_tile.unroll(sch, [pixel, channel])
        arm_tile.schedule_panel(sch, nest)


def _groups(work: ConvWork) -> list[list[tuple[int, int]]]:
    """Return the plane pairs (a, w) of each weight 2**(a + w), the heaviest first."""
    a, w = work.x.bits, work.w.bits
    return [[(i, s - i) for i in range(a) if 0 <= s - i < w] for s in reversed(range(a + w - 1))]


def _emit_counts(panel: Any, packed: Any, work: ConvWork, plan: Plan) -> Any:
    """Write one block ``count`` for each weight of plane pairs; return the last accumulators."""
    pieces, steps = steps_of(work)
    shape = (plan.width_stored, pieces, plan.channels)
    previous = None
    for group, pairs in enumerate(_groups(work)):
        lanes = ir.alloc((*shape[:2], plan.channels * _LANES), "uint16")
        a0, w0 = pairs[0]
        # The heaviest weight has one pair of planes; its first step starts the accumulators.
        started = 1 if previous is None and steps > 1 else 0

        def ones(p: Any, piece: Any, o: Any, pair: Any, k: Any, a0: int = a0, w0: int = w0) -> Any:
            both = tirx.bitwise_and(
                panel[p, a0 + pair, ir.lanes_at((piece * steps + k) * _WORDS, _WORDS)],
                packed[
                    tirx.floordiv(o, arm_tile.LANES), piece, w0 - pair, k,
                    tirx.floormod(o, arm_tile.LANES), ir.lanes_at(0, _WORDS),
                ],
            )  # fmt: skip
            return tirx.popcount(tirx.reinterpret("uint16x8", both))

        extents = (len(pairs), steps - started)
        with ir.stage(f"count_{group}", shape, extents) as (p, piece, o, pair, k):
            at = (p, piece, ir.lanes_at(o * _LANES, _LANES))
            with ir.init():
                start = ir.const(0, "uint16", _LANES)
                if previous is not None:
                    start = previous[at] + previous[at]
                elif started:
                    start = ones(p, piece, o, 0, 0)
                ir.store(lanes, start, *at)
            ir.store(lanes, lanes[at] + ones(p, piece, o, pair, k + started), *at)
        previous = lanes
    return previous


def _quad(lanes: Any) -> Any:
    """Return the sums of the accumulators of four channels as int32x4."""

    def quad(p: Any, block: Any, piece: Any) -> Any:
        vectors = [
            ir.intrinsic(
                "uint32x4",
                "llvm.aarch64.neon.uaddlp.v4i32.v8i16",
                lanes[p, piece, ir.lanes_at((block * arm_tile.LANES + i) * _LANES, _LANES)],
            )
            for i in range(arm_tile.LANES)
        ]
        return ir.cast(arm_tile.pairwise_tree(vectors, "uint32"), "int32", arm_tile.LANES)

    return quad


def _emit_window_sums(panel: Any, work: ConvWork, plan: Plan) -> Any:
    """Write block ``window_sum``: the sums of the indices under the kernel, [1, 1, pixels, 1]."""
    last = work.kernel[0] * work.kernel[1] * ceil_div(work.in_channels, WORD)
    sums = ir.alloc((1, 1, plan.width_stored, 1), "int32")
    with ir.stage("window_sum", (plan.width_stored,), (work.x.bits, last)) as (p, plane, k):
        at = (0, 0, p, 0)
        with ir.init():
            ir.store(sums, tirx.const(0, "int32"), *at)
        count = ir.cast(tirx.popcount(panel[p, plane, k]), "int32")
        ir.store(sums, sums[at] + tirx.shift_left(count, ir.cast(plane, "int32")), *at)
    return sums
