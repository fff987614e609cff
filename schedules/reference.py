"""Family ``reference``: plain loops over 32-bit integers, for any work on any CPU.

It is the fallback where no other family applies, and the model of how a family is written: values
of activations (padding is 0) times weights [KH, KW, C / groups, O], summed with the output channels
in the innermost loop, which LLVM vectorizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, ir, stages
from tvm_qnn.schedules.algebra import Correction, Digits, index_digits, value_digits
from tvm_qnn.schedules.cuda_gemm import LAUNCH
from tvm_qnn.schedules.epilogue import has_result
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import Packed, TiledFamily, refusal
from tvm_qnn.targets.record import Target

_STAGES = 3
"""Kernels that pad, sum and store, on a GPU."""


class Reference(TiledFamily):
    """Any convolution: groups, dilation, every range, bit planes as input and output."""

    name = "reference"

    def supports(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return refusal(self.name, work)

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`: nothing more."""
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        launches = 0 if target.gpu is None else _STAGES * LAUNCH
        return work.macs / target.rates.reference + launches

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """Store values, so that nothing is to correct; indices where zero points differ."""
        one_zero = len(set(work.w_zero)) == 1
        w = value_digits(work.w, work.w_zero[0]) if one_zero else index_digits(work.w, work.w_zero)
        return value_digits(work.x, work.x_zero), w

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """One pixel with all its channels is a tile."""
        granule = WORD if work.epilogue.pack else 1
        columns = ceil_div(work.out_channels, granule) * granule
        return Plan(
            lanes=1,
            rows=1,
            blocks=columns,
            flat=False,
            batch=work.batch,
            height=work.out_height,
            width=work.out_width,
            width_stored=work.out_width,
            columns=columns,
            weights_outer=False,
        )

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        digits = self.digits(work, target)[1]
        _, kh, kw, c = work.weight_shape
        small = digits.lo >= -128 and digits.hi <= 127
        dtype = "int8" if small else "int32"

        def layout(indices: Any) -> Callable[..., Any]:
            return lambda i, j, k, o: weight_digit(indices, digits, dtype, o, i, j, k)

        columns = self.plan(work, target).columns
        return Packed((kh, kw, c, columns), dtype, layout, columns)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, digits = self.plan(work, target), self.digits(work, target)[0]
        padded = stages.pad_digits(
            x, work, plan, digits, "int32", correction.fill, work.in_channels
        )
        per_group = work.weight_shape[3]
        window_sums = None
        if correction.slope is not None:
            window_sums = stages.sum_windows(
                work,
                plan,
                lambda n, h, w, g, c: padded[n, h, w, g * per_group + c],
                (per_group,),
                work.groups,
            )
        acc = ir.alloc((plan.batch, plan.height, plan.width, plan.columns), "int32")
        with ir.stage("acc", acc.shape, (*work.kernel, per_group)) as (n, h, v, o, i, j, k):
            with ir.init():
                ir.store(acc, tirx.const(0, "int32"), n, h, v, o)
            row, column = stages.tap(work, h, v, i, j)
            group = tirx.floordiv(o, work.out_channels // work.groups)
            if plan.columns != work.out_channels:
                group = tirx.min(group, work.groups - 1)
            product = padded[n, row, column, group * per_group + k] * ir.cast(
                w[i, j, k, o], "int32"
            )
            ir.store(acc, acc[n, h, v, o] + product, n, h, v, o)
        return lambda n, h, v, o: acc[n, h, v, o], window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """Keep the sums of one pixel in cache, with the channels innermost."""
        if target.gpu is not None:
            cuda.bind_rest(sch)
            return
        _, _, w, _ = sch.get_loops(sch.get_sblock("out"))
        if has_result(work, self.plan(work, target)):
            sch.compute_at(sch.get_sblock("result"), w)
        acc = sch.get_sblock("acc")
        sch.compute_at(acc, w, preserve_unit_loops=True)
        *_, channels, i, j, k = sch.get_loops(acc)
        sch.reorder(i, j, k, channels)
        sch.decompose_reduction(acc, i)
