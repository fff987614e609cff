"""Convolutions on the tensor cores of a GPU: families ``mma``, ``unpack``, ``mma4`` and ``bmma``.

Words hold bytes, for ``mma4`` eight codes of 4 bits, for ``bmma`` single bits.
A warp has the sums of a tile of rows and columns in fragments. Rows are the pixels of the output,
columns its channels; of single bits, each bit plane of a pixel is a row and each plane of a channel
a column, and the planes are weighed and added once the sums are complete. Rows of the image come
from shared memory by ``ldmatrix``; weights are packed in the order in which that reads a fragment,
[columns / 16, steps / 8, 32 rows of matrices, 4 words]. ``unpack`` stores several words in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, cuda_fragments, cuda_warps, ir, tiling
from tvm_qnn.schedules.algebra import Correction
from tvm_qnn.schedules.cuda_fragments import DEPTH, REGISTERS, TILE, WARP
from tvm_qnn.schedules.cuda_gemm import CudaFamily
from tvm_qnn.schedules.cuda_operands import Operands
from tvm_qnn.schedules.cuda_unpack import Unpacking
from tvm_qnn.schedules.family import Kernel, Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.tiled import Packed
from tvm_qnn.targets.record import Target

_TILES = (4, 4)
"""Fragments down and across in the tile of a thread block without tuning."""
_UNPACKING = 0.75
"""Products in the time of one, where weights have to be unpacked, an estimate."""


class CudaTensor(CudaFamily):
    """Any convolution of one group whose codes fit the operands."""

    depth = DEPTH
    copies_ahead = True
    together = 4 * DEPTH

    def __init__(self, name: str, operands: Operands, *, unpacks: bool = False) -> None:
        """``unpacks``: weights are stored in few bits and become bytes in registers."""
        super().__init__(name, operands)
        self._unpacks = unpacks

    def unpacking(self, work: ConvWork) -> Unpacking | None:
        """Return how stored weights become the words that are multiplied; None if they are."""
        if not self._unpacks or work.in_channels % 4:
            return None
        return Unpacking.of(self.operands.digits(work)[1], self.steps(work), DEPTH)

    def sets(self, work: ConvWork) -> int:
        """See :class:`CudaFamily`."""
        unpacking = self.unpacking(work)
        return 1 if unpacking is None else unpacking.sets

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        refused = super().refuse(work, target)
        if refused is not None:
            return refused
        assert target.gpu is not None
        if self._unpacks and self.unpacking(work) is None:
            reason = f"weights {work.w} of {work.in_channels} channels do not unpack evenly"
            return Refusal(self.name, reason, "at most 4 bits, many channels")
        needed = self.operands.kind(work).replace("u", "s")
        if needed not in target.gpu.tensor:
            reason = f"{target.gpu.arch} has no tensor cores for {needed}"
            return Refusal(self.name, reason, "CUDA cores take it")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        assert target.gpu is not None
        down, across = self._tiles(work)
        kind = self.operands.kind(work)
        rate = target.rates.tensor1 if kind == "b1" else target.rates.tensor8
        rate *= 2 if kind in cuda_fragments.NIBBLES else 1
        rate *= _UNPACKING if self._unpacks else 1
        return self.estimate(work, target, (down * TILE, across * TILE), rate)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        x_parts, w_parts = self.operands.parts(work)
        rows, columns = (n * TILE for n in self._tiles(work))
        # Whole pixels and channels, and whole words of channels when packing.
        rows, columns = rows * _denominator(rows, x_parts), columns * _denominator(columns, w_parts)
        if work.epilogue.pack:
            columns *= _denominator(columns // w_parts, WORD)
        return cuda.make_plan(work, rows // x_parts, columns // w_parts, 1, 1)

    def _tiles(self, work: ConvWork) -> tuple[int, int]:
        """Return the fragments down and across in the tile of a thread block."""
        x_parts, w_parts = self.operands.parts(work)
        rows, columns = cuda.rows_of(work) * x_parts, work.out_channels * w_parts
        return tuple(
            max(2, min(most, 1 << (ceil_div(extent, TILE) - 1).bit_length()))
            for most, extent in zip(_TILES, (rows, columns), strict=True)
        )  # type: ignore[return-value]

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        parts, unpacking = self.operands.parts(work)[1], self.unpacking(work)
        columns, sets = self.plan(work, target).columns * parts, self.sets(work)

        def layout(indices: Any) -> Callable[..., Any]:
            def word(tile: Any, k: Any, row: Any, place: Any) -> Any:
                # The inverse of cuda_fragments.column_place.
                matrix = tirx.floordiv(row, 8)
                column = tile * TILE + 8 * tirx.floordiv(matrix, 2) + tirx.floormod(row, 8)
                first = 4 * tirx.floormod(matrix, 2) + place
                o, part = tirx.floordiv(column, parts), tirx.floormod(column, parts)
                if unpacking is None:
                    return self.weight_word(work, indices, part, o, k * DEPTH + first)
                return unpacking.stored(
                    work, indices, o,
                    lambda p: self.place(work, (k * sets + p) * DEPTH + first),
                )  # fmt: skip

            return word

        shape = (columns // TILE, self.steps(work) // DEPTH // sets, WARP, REGISTERS)
        return Packed(shape, "uint32", layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`."""
        plan, (x_parts, w_parts) = self.plan(work, target), self.operands.parts(work)
        words, kind = self.operands.words(work, x, correction.fill), self.operands.kind(work)
        image = self.emit_image(work, plan, words)
        window_sums = self.emit_window_sums(work, plan, words, correction)
        unpacking, sets = self.unpacking(work), self.sets(work)
        if unpacking is not None:
            w = _emit_unpacked(w, unpacking)
        # Of the type of the words, so that sums can take the place of words in shared memory.
        acc = ir.alloc((plan.width_stored * x_parts, plan.columns * w_parts), "uint32")
        with ir.stage("acc", acc.shape, (self.steps(work),)) as (row, column, step):
            with ir.init():
                ir.store(acc, tirx.const(0, "uint32"), row, column)
            place = cuda_fragments.column_place(
                tirx.floormod(column, TILE), tirx.floormod(step, DEPTH)
            )
            k = tirx.floordiv(step, DEPTH)
            fragment = (k,) if sets == 1 else (tirx.floordiv(k, sets), tirx.floormod(k, sets))
            word = w[(tirx.floordiv(column, TILE), *fragment, *place)]
            total = cuda_fragments.product(kind, image[row, step], word, acc[row, column])
            ir.store(acc, total, row, column)

        if (x_parts, w_parts) == (1, 1):
            return lambda n, h, v, o: ir.wrapped(acc[v, o], "int32"), window_sums
        combined = ir.alloc((plan.width_stored, plan.columns), "int32")
        parts = (x_parts, w_parts)
        with ir.stage("combined", combined.shape, parts) as (v, o, p, q):
            with ir.init():
                ir.store(combined, tirx.const(0, "int32"), v, o)
            found = ir.wrapped(acc[v * x_parts + p, o * w_parts + q], "int32")
            weighed = self.operands.weighed(work, found, p, q)
            ir.store(combined, combined[v, o] + weighed, v, o)
        return lambda n, h, v, o: combined[v, o], window_sums

    def build(
        self, work: ConvWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`TiledFamily`."""
        # A tuned trace knows the instructions by their names only.
        cuda_fragments.register(self.operands.kind(work), self.unpacking(work))
        return super().build(work, target, weights, trace)

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`.

        Sampled are the tile of a thread block, how its warps share it, and how many fragments of
        the reduction are copied at a time.
        """
        x_parts, w_parts = self.operands.parts(work)
        kind = self.operands.kind(work)
        down, across = self._tiles(work)
        _, _, rows, columns = sch.get_loops(sch.get_sblock("out"))
        granule = WORD if work.epilogue.pack else 1
        row_tile, column_tile = _smallest(TILE, x_parts, 1), _smallest(TILE, w_parts, granule)
        row0, row1 = self._blocks(sch, rows, row_tile, down * TILE // x_parts)
        column0, column1 = self._blocks(
            sch, columns, column_tile // granule, across * TILE // w_parts // granule
        )
        sch.reorder(row0, column0, row1, column1)
        sch.bind(row0, "blockIdx.x")
        sch.bind(column0, "blockIdx.y")
        pack, late = work.epilogue.pack, []
        for name, scope in (("result", "shared" if pack else "local"), ("combined", "local")):
            if cuda.has_block(sch, name):
                late.append(block := sch.get_sblock(name))
                sch.set_scope(block, 0, scope)
                sch.compute_at(block, column0, preserve_unit_loops=True)
        acc = sch.get_sblock("acc")
        sch.set_scope(acc, 0, "shared")
        sch.compute_at(acc, column0, preserve_unit_loops=True)
        threads = cuda_warps.multiply(sch, acc, kind, self.unpacking(work), self.together)
        lane = cuda.share(sch, [row1, column1], threads)
        if pack:
            # Channels are shared by all threads before some of them pack words.
            lane = cuda.share(sch, sch.get_loops(late.pop(0))[-2:], threads)
        for block in late:
            sch.compute_at(block, lane, preserve_unit_loops=True)
        cuda.bind_rest(sch)

    @staticmethod
    def _blocks(sch: Any, loop: Any, unit: int, default: int) -> list[Any]:
        """Split a loop of ``out`` into thread blocks and what is in one, whole units."""
        extent = int(sch.get(loop).extent)
        outer, inner = sch.split(loop, [extent // unit, unit])
        many = max(1, default // unit)
        (first, second), _ = tiling.sample(sch, outer, [extent // unit // many, many], 8)
        return [first, sch.fuse(second, inner)]


def _emit_unpacked(w: Any, unpacking: Unpacking) -> Any:
    """Write the block ``unpacked``: packed weights as words, with an axis for their sets."""
    columns, k, *fragment = (int(d) for d in w.shape)
    unpacked = ir.alloc((columns, k, unpacking.sets, *fragment), "uint32")
    with ir.stage("unpacked", unpacked.shape) as (j, at, part, row, place):
        ir.store(unpacked, unpacking.apply(w[j, at, row, place], part), j, at, part, row, place)
    return unpacked


def _denominator(a: int, b: int) -> int:
    """Return the least factor that makes ``a`` a multiple of ``b``."""
    return b // math.gcd(a, b)


def _smallest(tile: int, parts: int, granule: int) -> int:
    """Return the fewest pixels or channels whose rows or columns are whole fragments."""
    return math.lcm(tile // math.gcd(tile, parts), granule)
