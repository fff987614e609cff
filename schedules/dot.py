"""Family ``dot``: 8-bit dot products, several products summed into each lane of a register.

Activations are padded into a buffer of digits; a group of neighbouring input channels (4 bytes, or
2 words of 16 bits) is one broadcast word. Weights are packed [O / lanes, KH, KW, C / group, lanes *
group], so that one vector holds a group of input channels for each of ``lanes`` output channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir, stages
from tvm_qnn.schedules.algebra import Correction, Digits
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.instruction import Instruction
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import Plan, ceil_div, make_plan
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import EPILOGUE_CYCLES, Packed, TiledFamily
from tvm_qnn.schedules.tiling import schedule_tiles
from tvm_qnn.targets.record import Target


class Dot(TiledFamily):
    """Convolutions and matrix products with one group of channels.

    Args:
        instructions: the instructions that a target has, the fastest first.
    """

    name = "dot"

    def __init__(self, instructions: Callable[[Target], list[Instruction]]) -> None:
        self._instructions = instructions

    def instruction(self, work: ConvWork, target: Target) -> Instruction:
        """Return the fastest instruction of the target that is exact for supported work."""
        return self._fit(work, target)[0]

    def _fit(self, work: ConvWork, target: Target) -> tuple[Instruction, tuple[Digits, Digits]]:
        found = self._fitting(work, target)
        assert found is not None, "supports() refuses such work"
        return found

    def _fitting(
        self, work: ConvWork, target: Target
    ) -> tuple[Instruction, tuple[Digits, Digits]] | None:
        for instruction in self._instructions(target):
            digits = instruction.digits(work)
            if digits is not None:
                return instruction, digits
        return None

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if work.groups != 1:
            return Refusal(self.name, f"{work.groups} channel groups", "reference takes them")
        if work.x_planes:
            return Refusal(self.name, "activations come as bit planes", "hand over codes")
        if self._fitting(work, target) is None:
            reason = f"no instruction of {target.name} takes codes {work.x} and {work.w}"
            return Refusal(self.name, reason, "at most 8 bits, and values that fit them")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, (_, w) = self.plan(work, target), self.digits(work, target)
        instruction = self.instruction(work, target)
        outputs = plan.batch * plan.height * plan.width_stored * plan.columns
        _, kh, kw, c = work.weight_shape
        steps = kh * kw * ceil_div(c, instruction.group)
        sums = work.batch * work.height * work.width * c / 16 if any(w.offsets) else 0
        return outputs * (steps * instruction.step(plan) + EPILOGUE_CYCLES) + sums

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        return self._fit(work, target)[1]

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        i = self.instruction(work, target)
        return make_plan(
            work,
            i.lanes,
            registers=i.registers,
            update=i.rate,
            latency=i.latency,
            weight_bytes=int(np.prod(work.weight_shape)) * np.dtype(i.w_dtype).itemsize,
        )

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        i, plan = self.instruction(work, target), self.plan(work, target)
        digits = self.digits(work, target)[1]
        _, kh, kw, c = work.weight_shape
        shape = (plan.columns, kh, kw, ceil_div(c, i.group), i.lanes * i.group)

        def layout(indices: Any) -> Callable[..., Any]:
            def digit(block: Any, ki: Any, kj: Any, k: Any, lane: Any) -> Any:
                o = block * i.lanes + tirx.floordiv(lane, i.group)
                channel = k * i.group + tirx.floormod(lane, i.group)
                return weight_digit(indices, digits, i.w_dtype, o, ki, kj, channel)

            return digit

        return Packed(shape, i.w_dtype, layout, i.lanes)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        i, plan = self.instruction(work, target), self.plan(work, target)
        digits = self.digits(work, target)[0]
        groups = ceil_div(work.in_channels, i.group)
        direct = (
            digits.identity
            and work.x.dtype == i.x_dtype
            and work.in_channels % i.group == 0
            and not stages.needs_padding(work, plan)
        )
        if not direct:
            channels = groups * i.group
            x = stages.pad_digits(x, work, plan, digits, i.x_dtype, correction.fill, channels)

        def at(n: Any, h: Any, w: Any) -> tuple[Any, Any, Any]:
            return stages.pixel(work, plan, n, h, w) if direct else (n, h, w)

        window_sums = None
        if correction.slope is not None:
            window_sums = stages.sum_windows(
                work, plan, lambda n, h, w, _, c: ir.cast(x[(*at(n, h, w), c)], "int32"),
                (work.in_channels,),
            )  # fmt: skip
        acc = ir.alloc((plan.batch, plan.height, plan.width_stored, plan.channels), "int32")
        spatial = (plan.batch, plan.height, plan.width_stored, plan.columns)
        with ir.stage("acc", spatial, (*work.kernel, groups)) as (n, h, v, o, ki, kj, k):
            lanes = ir.lanes_at(o * i.lanes, i.lanes)
            with ir.init():
                ir.store(acc, ir.const(0, "int32", i.lanes), n, h, v, lanes)
            row, column = stages.tap(work, h, v, ki, kj)
            group = x[(*at(n, row, column), ir.lanes_at(k * i.group, i.group))]
            word = tirx.reinterpret("int32", group)
            vector = w[o, ki, kj, k, ir.lanes_at(0, i.lanes * i.group)]
            ir.store(acc, i.update(acc[n, h, v, lanes], word, vector), n, h, v, lanes)
        return lambda n, h, v, o: acc[n, h, v, ir.lanes_at(o * i.lanes, i.lanes)], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`."""
        schedule_tiles(sch, work, self.plan(work, target))
