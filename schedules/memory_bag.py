"""Kernels that embed bags of words: sums of table rows, and which slots hold a sentence.

All embeddings of the same words are made in one pass over the word indices, with their sums in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target


@dataclass(frozen=True)
class Bag:
    """One embedding.

    Attributes:
        table: codes, one row a word.
        fmt: their format.
        out: one row a bag.
        out_fmt: the format that the saturated sums are brought into.
    """

    table: Matrix
    fmt: FixedPoint
    out: Matrix
    out_fmt: FixedPoint


@dataclass(frozen=True)
class _Sum:
    """The sum of a piece of the rows of one table."""

    bag: Bag
    total: Any
    start: int
    lanes: int
    dtype: str

    @property
    def every(self) -> Any:
        return ir.lanes_at(0, self.lanes)


def emit_bags(
    target: Target, words: Matrix, bags: Sequence[Bag], valid: Matrix | None = None
) -> None:
    """Write embeddings of words [N * L, W].

    Args:
        target: the device.
        words: row numbers; what is no row of a table counts as 0.
        bags: the embeddings to make, one of more.
        valid: where to write whether a bag has words other than 0, as rows of L; or None.
    """
    slots = valid.width if valid is not None else words.rows
    with T.serial(words.rows // slots) as n, T.serial(slots) as slot:
        row = n * slots + slot
        groups = _groups(target, [s for bag in bags for s in _sums(target, words, bag)])
        if valid is not None and not groups:
            groups = [[]]
        for i, group in enumerate(groups):
            used = None if valid is None or i else ir.alloc((1,), "int32")
            _emit_group(words, row, group, used)
            if valid is not None and used is not None:
                one, zero = tirx.const(1, "int8"), tirx.const(0, "int8")
                valid.store(tirx.Select(used[0] != 0, one, zero), n, slot)


def _sums(target: Target, words: Matrix, bag: Bag) -> list[_Sum]:
    bound = words.width * bag.fmt.limit
    dtype = memory.working_dtype(bound)
    lanes, starts = memory.pieces(
        bag.out.width, memory.lanes_of(target, dtype), bag.out.padded and bag.table.padded
    )
    return [_Sum(bag, ir.alloc((lanes,), dtype), start, lanes, dtype) for start in starts]


def _groups(target: Target, sums: list[_Sum]) -> list[list[_Sum]]:
    """Cut into groups that fit the registers."""
    wide = "avx512" in target.features or "neon" in target.features
    size = 24 if wide else 12
    return [sums[i : i + size] for i in range(0, len(sums), size)]


def _emit_group(words: Matrix, row: Any, group: list[_Sum], used: Any) -> None:
    """Write some sums of one bag."""
    for s in group:
        ir.store(s.total, ir.const(0, s.dtype, s.lanes), s.every)
    if used is not None:
        ir.store(used, tirx.const(0, "int32"), 0)
    with T.serial(words.width) as w:
        word = T.Bind(words.load(row, w))
        if used is not None:
            ir.store(used, tirx.bitwise_or(used[0], word), 0)
        known: dict[int, Any] = {}
        for s in group:
            table = s.bag.table
            if table.rows not in known:
                inside = tirx.all(word >= 0, word < table.rows)
                known[table.rows] = T.Bind(tirx.Select(inside, word, tirx.const(0, "int32")))
            codes = table.load(known[table.rows], s.start, s.lanes)
            ir.store(s.total, s.total[s.every] + ir.cast(codes, s.dtype, s.lanes), s.every)
    for s in group:
        bag, bound = s.bag, words.width * s.bag.fmt.limit
        dtype = memory.convert_dtype(bag.fmt, bag.out_fmt, bound)
        total = ir.cast(s.total[s.every], dtype, s.lanes)
        codes = memory.convert(total, bag.fmt, bag.out_fmt, dtype, s.lanes, bound)
        bag.out.store(ir.cast(codes, bag.out.dtype, s.lanes), row, s.start, s.lanes)
