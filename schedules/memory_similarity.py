"""Kernels that compare a key with every row: dot and Hamming similarity, and dense layers.

A dense layer is a similarity whose memory is its weights. Rows go in blocks of as many as a vector
of sums has lanes. Vectors run over the end of a row into the next one, where the key counts 0; only
the last block of a dense tensor, behind which nothing may be read, goes through a padded copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.schedules.memory_arithmetic import Arithmetic, arithmetic, sum_rows
from tvm_qnn.schedules.memory_work import Operation
from tvm_qnn.schedules.plan import ceil_div
from tvm_qnn.targets.record import Target

_UNROLLED_CHUNKS = 4


def emit_similarity(
    target: Target, work: Operation, rows: Matrix, keys: Matrix, out: Matrix
) -> None:
    """Write scores [N, L] of keys [N, E] with rows [N * L, E], of a dense layer [L, E]."""
    arith = arithmetic(target, work.format.dtype)
    with T.serial(keys.rows) as n:
        first = tirx.const(0, "int32") if work.kind == "dense" else n * out.width
        _Scores(target, work, arith, rows, out, n).emit(keys, first)


@dataclass(frozen=True)
class _Scores:
    """The statements for one key."""

    target: Target
    work: Operation
    arith: Arithmetic
    rows: Matrix
    out: Matrix
    n: Any

    def emit(self, keys: Matrix, first: Any) -> None:
        """Write the scores of all slots from row ``first`` on."""
        arith, slots = self.arith, self.out.width
        chunks = ceil_div(self.rows.width, arith.chunk)
        parts = self._key(keys, chunks)
        whole = self._whole_blocks(slots, chunks * arith.chunk)
        if whole:
            with T.serial(whole) as block:
                row = block * arith.lanes
                raw = self._block(parts, chunks, self.rows, first + row)
                self.out.store(raw, self.n, row, arith.lanes)
        if whole * arith.lanes < slots:
            with T.serial(ceil_div(slots, arith.lanes) - whole) as block:
                self._copied(parts, chunks, first, (block + whole) * arith.lanes)

    def _whole_blocks(self, slots: int, reach: int) -> int:
        """Return how many blocks may be read and written where they are."""
        lanes = self.arith.lanes
        blocks = ceil_div(slots, lanes) if self.out.padded else slots // lanes
        if self.rows.padded:
            return blocks
        # Of a dense tensor, the last row that is read must not reach beyond the end.
        last = (slots * self.rows.stride - reach) // self.rows.stride
        return max(0, min(blocks, (last + 1) // lanes))

    def _copied(self, parts: list[Any], chunks: int, first: Any, slot: Any) -> None:
        """Write the scores of one block of a copy of its rows."""
        arith, slots, width = self.arith, self.out.width, self.rows.width
        reach = chunks * arith.chunk
        copy = Matrix(
            ir.alloc((arith.lanes * reach,), arith.dtype),
            arith.lanes, width, reach, arith.dtype, padded=True,
        )  # fmt: skip
        with T.serial(arith.lanes) as i, T.serial(width) as e:
            copy.store(self.rows.load(first + tirx.min(slot + i, slots - 1), e), i, e)
        found = ir.alloc((arith.lanes,), self.out.dtype)
        raw = self._block(parts, chunks, copy, tirx.const(0, "int32"))
        ir.store(found, raw, ir.lanes_at(0, arith.lanes))
        with T.serial(arith.lanes) as i, ir.guard(slot + i < slots):
            self.out.store(found[i], self.n, slot + i)

    def _key(self, keys: Matrix, chunks: int) -> list[Any]:
        """Write what the steps need of the key into buffers, and return those."""
        arith, fmt, width = self.arith, self.work.format, keys.width
        size = chunks * arith.chunk
        codes = ir.alloc((size,), arith.dtype)
        if size > width:
            end = ir.lanes_at(size - arith.chunk, arith.chunk)
            ir.store(codes, ir.const(0, arith.dtype, arith.chunk), end)
        with T.serial(width) as e:
            ir.store(codes, keys.load(self.n, e), e)
        parts: list[Any] = []
        for c in range(chunks):
            at = ir.lanes_at(c * arith.chunk, arith.chunk)
            one, zero = (ir.const(v, arith.dtype, arith.chunk) for v in (1, 0))
            index = tirx.Ramp(c * arith.chunk, 1, arith.chunk)
            inside = tirx.Select(index < ir.const(width, "int32", arith.chunk), one, zero)
            values = arith.key(self.work.mode, fmt, T.Bind(codes[at]), T.Bind(inside))
            if c == 0:
                parts = [ir.alloc((size,), arith.dtype) for _ in values]
            for buffer, value in zip(parts, values, strict=True):
                ir.store(buffer, value, at)
        return parts

    def _block(self, parts: list[Any], chunks: int, rows: Matrix, first: Any) -> Any:
        """Return the scores of a block of rows."""
        arith, mode, fmt = self.arith, self.work.mode, self.work.format
        zero = ir.const(0, "int32", arith.lanes)
        totals = [ir.alloc((arith.lanes,), "int32") for _ in range(arith.lanes)]
        every = ir.lanes_at(0, arith.lanes)
        for total in totals:
            ir.store(total, zero, every)

        def step(c: Any) -> None:
            at = c * arith.chunk
            keys = [T.Bind(p[ir.lanes_at(at, arith.chunk)]) for p in parts]
            start = arith.start(mode, keys)
            start = None if start is None else T.Bind(start)
            for r, total in enumerate(totals):
                u = T.Bind(rows.load(first + r, at, arith.chunk))
                before = total[every] if start is None else total[every] + start
                ir.store(total, arith.add(mode, fmt, before, u, keys), every)

        _repeat(chunks, step)
        raw = sum_rows([total[every] for total in totals], self.target)
        raw = memory.shift_toward_zero(raw, self.work.shift, "int32", arith.lanes)
        scores = memory.clip(raw, fmt.limit, "int32", arith.lanes)
        return ir.cast(scores, fmt.dtype, arith.lanes)


def _repeat(count: int, step: Callable[[Any], None]) -> None:
    """Write ``step`` once for each number below ``count``, as a loop if there are many."""
    unrolled: Iterable[int] = range(count) if count <= _UNROLLED_CHUNKS else ()
    for c in unrolled:
        step(c)
    if count > _UNROLLED_CHUNKS:
        with T.serial(count) as c:
            step(c)
