"""Convolutions on the CUDA cores of a GPU: families ``bitserial`` (``__popc``) and ``dot`` (dp4a).

Every thread has the sums of a tile of pixels and channels in registers. A thread block copies what
all its threads read to shared memory, some words of the reduction at a time. Weights are packed
[steps, parts, O / 4, 4], so that the channels of a thread are neighbours and are copied together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, ir, tiling
from tvm_qnn.schedules.algebra import Correction
from tvm_qnn.schedules.cuda import VECTOR
from tvm_qnn.schedules.cuda_gemm import CudaFamily
from tvm_qnn.schedules.cuda_operands import Bits, CoreOperands
from tvm_qnn.schedules.epilogue import has_result
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.tiled import Packed
from tvm_qnn.targets.record import Target

_LARGEST_TILE = 8
_MOST_STEPS = 8


class CudaCores(CudaFamily):
    """Any convolution of one group whose codes fit the operands."""

    together = _MOST_STEPS
    operands: CoreOperands

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        plan, (down, across) = self.plan(work, target), _threads(work)
        x, w = self.operands.parts(work)
        rate = target.rates.bitserial if isinstance(self.operands, Bits) else target.rates.dot
        return self.estimate(work, target, (down * plan.rows * x, across * plan.blocks * w), rate)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        (down, across), rows = _threads(work), _tile_rows(work)
        channels = WORD if work.epilogue.pack else VECTOR
        return cuda.make_plan(work, down * rows, across * channels, rows, channels)

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        columns, parts = self.plan(work, target).columns, self.operands.parts(work)[1]

        def layout(indices: Any) -> Callable[..., Any]:
            return lambda step, part, o, lane: self.weight_word(
                work, indices, part, o * VECTOR + lane, step
            )

        return Packed((self.steps(work), parts, columns // VECTOR, VECTOR), "uint32", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, (x_parts, w_parts) = self.plan(work, target), self.operands.parts(work)
        words = self.operands.words(work, x, correction.fill)
        image = self.emit_image(work, plan, words)
        window_sums = self.emit_window_sums(work, plan, words, correction)
        acc = ir.alloc((plan.width_stored, plan.columns // VECTOR, VECTOR), "int32")
        with ir.stage("acc", acc.shape, (self.steps(work),)) as (row, o, lane, step):
            with ir.init():
                ir.store(acc, tirx.const(0, "int32"), row, o, lane)
            left = [image[row * x_parts + p, step] for p in range(x_parts)]
            right = [w[step, p, o, lane] for p in range(w_parts)]
            total = self.operands.update(work, left, right, acc[row, o, lane])
            ir.store(acc, total, row, o, lane)

        def sums(n: Any, h: Any, v: Any, o: Any) -> Any:
            return acc[v, tirx.floordiv(o, VECTOR), tirx.floormod(o, VECTOR)]

        return sums, window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`.

        Sampled are the threads of a block and the tile of a thread, and how many steps are copied
        at a time.
        """
        plan = self.plan(work, target)
        down, across = _threads(work)
        _, _, rows, columns = sch.get_loops(sch.get_sblock("out"))
        blocks = plan.width_stored // (down * plan.rows)
        (row0, row1, row2), (_, ty, _) = tiling.sample(
            sch, rows, [blocks, down, plan.rows], _LARGEST_TILE
        )
        outer, vector = sch.split(columns, [None, 1 if work.epilogue.pack else VECTOR])
        blocks = int(sch.get(outer).extent) // across
        (column0, column1, column2), (_, tx, _) = tiling.sample(sch, outer, [blocks, across, 1], 2)
        sch.reorder(row0, column0, row1, column1, row2, column2, vector)
        for loop, axis in (
            (row0, "blockIdx.x"),
            (column0, "blockIdx.y"),
            (row1, "threadIdx.y"),
            (column1, "threadIdx.x"),
        ):
            sch.bind(loop, axis)
        if has_result(work, plan):
            result = sch.get_sblock("result")
            sch.set_scope(result, 0, "local")
            sch.compute_at(result, column1, preserve_unit_loops=True)
        acc = sch.get_sblock("acc")
        sch.set_scope(acc, 0, "local")
        sch.compute_at(acc, column1, preserve_unit_loops=True)
        *_, pixels, vectors, channels, steps = sch.get_loops(acc)
        # What is copied at once lies within a tap.
        group = self.group(work)
        groups, word = sch.split(steps, [None, group])
        count = int(sch.get(groups).extent)
        most = max(d for d in range(1, _MOST_STEPS // group + 1) if count % d == 0)
        (outer, inner), _ = tiling.sample(sch, groups, [count // most, most], _MOST_STEPS)
        sch.reorder(outer, inner, word, pixels, vectors, channels)
        for loop in (inner, word, pixels, vectors, channels):
            sch.unroll(loop)
        threads = (("threadIdx.y", ty), ("threadIdx.x", tx))
        cuda.copy_operands(sch, acc, outer, threads)
        sch.decompose_reduction(acc, outer)
        cuda.bind_rest(sch)


def _threads(work: ConvWork) -> tuple[int, int]:
    """Return the threads of a block (over pixels, over channels)."""
    granule, most = (WORD, 4) if work.epilogue.pack else (VECTOR, 32)
    wanted = min(ceil_div(work.out_channels, granule), most)
    across = 1 << (wanted - 1).bit_length()
    return cuda.THREADS // across, across


def _tile_rows(work: ConvWork) -> int:
    """Return the pixels of a thread: more of them where there are enough for all processors."""
    down, _ = _threads(work)
    return next((n for n in (4, 2) if cuda.rows_of(work) >= 64 * n * down), 1)
