"""Family ``bitserial``: AND and popcount of bit planes.

Activations are planes of indices, weights planes of digits; with planes p and b,

    D = sum over p, b of c_p * 2**b * popcount(W_p & X_b),    c_p = 2**p

and the last plane of negative digits (two's complement) has ``c_p = -2**p``, so that weights around
0 need no sum of activations.

Weights are packed [O / lanes, KH, KW, C / 32, planes, lanes] in words of 32 input channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import bitserial_x86, ir, stages
from tvm_qnn.schedules.algebra import (
    Correction,
    Digits,
    index_digits,
    value_digits,
)
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div, make_plan, tile_cost
from tvm_qnn.schedules.prepare import plane_word
from tvm_qnn.schedules.tiled import EPILOGUE_CYCLES, Packed, TiledFamily
from tvm_qnn.schedules.tiling import schedule_tiles
from tvm_qnn.targets.record import Target

MOST_PAIRS = 16
"""Plane pairs beyond which a dot product is faster on every target."""


def planes_of(digits: Digits) -> int:
    """Return the bit planes of digits, with a sign plane if some are negative."""
    if digits.lo < 0:
        return max(digits.hi.bit_length(), (-digits.lo - 1).bit_length()) + 1
    return max(1, digits.hi.bit_length())


def weight_digits(work: ConvWork) -> Digits:
    """Choose digits with the fewest planes; values rather than indices where both have as many."""
    indices = index_digits(work.w, work.w_zero)
    if len(set(work.w_zero)) > 1:
        return indices
    values = value_digits(work.w, work.w_zero[0])
    return values if planes_of(values) <= planes_of(indices) else indices


class BitSerial(TiledFamily):
    """Convolutions and matrix products of few bits with one group of channels."""

    name = "bitserial"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if work.groups != 1:
            reason = f"{work.groups} channel groups leave few channels to count"
            return Refusal(self.name, reason, "dot or reference take them")
        planes = planes_of(self.digits(work, target)[1])
        pairs = work.x.bits * planes
        if pairs > MOST_PAIRS:
            reason = f"{work.x.bits} x {planes} bit planes make {pairs} products of planes"
            return Refusal(self.name, reason, f"at most {MOST_PAIRS}; dot is faster beyond")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, (_, w) = self.plan(work, target), self.digits(work, target)
        outputs = plan.batch * plan.height * plan.width_stored * plan.columns
        _, kh, kw, c = work.weight_shape
        steps = kh * kw * ceil_div(c, WORD)
        chunks = work.batch * work.height * work.width * ceil_div(c, WORD)
        packing = 0 if work.x_planes else 3 * chunks
        sums = 2 * chunks * work.x.bits if any(w.offsets) else 0
        step = tile_cost(plan.rows, plan.blocks, self._update(work, target), 0.5, 1)
        return outputs * (steps * step + EPILOGUE_CYCLES) + packing + sums

    def _update(self, work: ConvWork, target: Target) -> float:
        """Return the cycles to combine all plane pairs of one word in one register."""
        planes = planes_of(self.digits(work, target)[1])
        return bitserial_x86.update_cycles(target, work.x.bits * planes)

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        return index_digits(work.x, (work.x_zero,)), weight_digits(work)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        planes = planes_of(self.digits(work, target)[1])
        bits = int(np.prod(work.weight_shape)) * planes
        # Many plane pairs keep the units busy in a small tile, and large ones are slow to compile.
        wide = "avx512" in target.features and work.x.bits * planes <= 6
        return make_plan(
            work,
            target.vector_bytes // 4,
            registers=28 if wide else 10,
            update=self._update(work, target),
            latency=1,
            weight_bytes=bits // 8,
        )

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        plan, digits = self.plan(work, target), self.digits(work, target)[1]
        _, kh, kw, c = work.weight_shape
        shape = (plan.columns, kh, kw, ceil_div(c, WORD), planes_of(digits), plan.lanes)

        def layout(indices: Any) -> Callable[..., Any]:
            def word(block: Any, ki: Any, kj: Any, k: Any, plane: Any, lane: Any) -> Any:
                return plane_word(indices, digits, plane, block * plan.lanes + lane, ki, kj, k)

            return word

        return Packed(shape, "uint32", layout, plan.lanes)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, (digits, w_digits) = self.plan(work, target), self.digits(work, target)
        lanes, bits, words = plan.lanes, work.x.bits, ceil_div(work.in_channels, WORD)
        direct = work.x_planes and not stages.needs_padding(work, plan)
        if work.x_planes and not direct:
            x = stages.pad_planes(x, work, plan, correction.fill)
        elif not work.x_planes:
            channels = words * WORD
            x = stages.pad_digits(x, work, plan, digits, "uint8", correction.fill, channels)
            x = stages.pack_planes(x, bits, stages.pack_word_for(target))

        def at(n: Any, h: Any, w: Any) -> tuple[Any, Any, Any]:
            return stages.pixel(work, plan, n, h, w) if direct else (n, h, w)

        def ones(n: Any, h: Any, w: Any, _: Any, k: Any) -> Any:
            total: Any = 0
            for p in range(bits):
                total = total + ir.cast(tirx.popcount(x[(*at(n, h, w), p, k)]), "int32") * 2**p
            return total

        window_sums = None
        if correction.slope is not None:
            window_sums = stages.sum_windows(work, plan, ones, (words,))
        planes = planes_of(w_digits)
        update = bitserial_x86.update_for(target, bits, planes, signed=w_digits.lo < 0)
        acc = ir.alloc((plan.batch, plan.height, plan.width_stored, plan.channels), "int32")
        spatial = (plan.batch, plan.height, plan.width_stored, plan.columns)
        with ir.stage("acc", spatial, (*work.kernel, words)) as (n, h, v, o, ki, kj, k):
            to = ir.lanes_at(o * lanes, lanes)
            with ir.init():
                ir.store(acc, ir.const(0, "int32", lanes), n, h, v, to)
            pixel = at(n, *stages.tap(work, h, v, ki, kj))
            x_planes = [ir.splat(x[(*pixel, p, k)], lanes) for p in range(bits)]
            w_planes = [w[o, ki, kj, k, p, ir.lanes_at(0, lanes)] for p in range(planes)]
            ir.store(acc, update(acc[n, h, v, to], x_planes, w_planes), n, h, v, to)
        return lambda n, h, v, o: acc[n, h, v, ir.lanes_at(o * lanes, lanes)], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        schedule_tiles(sch, work, self.plan(work, target))
