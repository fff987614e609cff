"""Kernels that embed bags of words: sums of table rows, and which slots hold a sentence.

All embeddings of the same words are made in one pass over the word indices, with their sums in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target

_BIAS = 128


@dataclass(frozen=True)
class Bag:
    """One embedding.

    Attributes:
        table: codes, one row a word.
        fmt: their format.
        out: one row a bag.
        out_fmt: the format that the saturated sums are brought into.
        biased: the table is as :func:`wants_bias` asks for.
    """

    table: Matrix
    fmt: FixedPoint
    out: Matrix
    out_fmt: FixedPoint
    biased: bool = False

    def codes(self, total: Any, words: int, dtype: str, lanes: int) -> Any:
        """Return codes of ``out_fmt``, in a working dtype, of sums of ``words`` codes."""
        bound = words * self.fmt.limit
        wide = memory.convert_dtype(self.fmt, self.out_fmt, bound)
        total = total if wide == dtype else ir.cast(total, wide, lanes)
        return memory.convert(total, self.fmt, self.out_fmt, wide, lanes, bound)


def wants_bias(target: Target, fmt: FixedPoint, words: int) -> bool:
    """Tell whether a prepared table of int8 codes should have 128 added to its even columns.

    Two neighbours are then one 16-bit integer, ``256 * odd + even``, whose arithmetic shift by 8 is
    the odd one. Sums of the integers and of the shifted ones tell both apart: fewer instructions
    than to widen them, where those are slow (x86).
    """
    return "avx2" in target.features and fmt.bits <= 8 and words * 2 * _BIAS < 2**16


def emit_bags(
    target: Target, words: Matrix, bags: Sequence[Bag], valid: Matrix | None = None
) -> None:
    """Write embeddings of words [N * L, W].

    Args:
        target: the device.
        words: row numbers; what is no row of a table counts as 0.
        bags: the embeddings to make.
        valid: where to write whether a bag has words other than 0, as rows of L; or None.
    """
    slots = valid.width if valid is not None else words.rows
    with T.serial(words.rows // slots) as n, T.serial(slots) as slot:
        row = n * slots + slot
        sums = [s for bag in bags for s in _sums(target, words.width, bag)]
        for i, group in enumerate(_groups(target, sums) or [[]]):
            used = None if valid is None or i else ir.alloc((1,), "int32")
            _emit_group(words, row, row, group, used)
            if valid is not None and used is not None:
                one, zero = tirx.const(1, "int8"), tirx.const(0, "int8")
                valid.store(tirx.Select(used[0] != 0, one, zero), n, slot)
        for bag, scratch in {id(s.bag): (s.bag, s.out) for s in sums}.values():
            if scratch is not bag.out:
                with T.serial(bag.out.width) as e:
                    bag.out.store(scratch.load(0, e), row, e)


@dataclass(frozen=True)
class BagRows:
    """Embeddings that are made one by one, where they are read.

    Attributes:
        target: the device.
        words: row numbers, one row a bag.
        bag: the embedding; its ``out`` is one padded row.
    """

    target: Target
    words: Matrix
    bag: Bag

    def emit(self, row: Any) -> Matrix:
        """Embed one row of words and return the matrix whose only row it is."""
        for group in _groups(self.target, _sums(self.target, self.words.width, self.bag)):
            _emit_group(self.words, row, 0, group, None)
        return self.bag.out


class _Sum(Protocol):
    """The sum of some columns of a table."""

    @property
    def bag(self) -> Bag:
        """Whose table it is."""

    @property
    def out(self) -> Matrix:
        """Where the codes go: ``bag.out``, or one padded row."""

    def clear(self) -> None:
        """Begin a bag."""

    def add(self, word: Any) -> None:
        """Add a row of the table."""

    def finish(self, row: Any) -> None:
        """Store the codes in a row of ``out``."""


@dataclass(frozen=True)
class _Widened:
    """Columns that are widened one by one."""

    bag: Bag
    out: Matrix
    words: int
    start: int
    lanes: int
    dtype: str
    total: Any

    def clear(self) -> None:
        ir.store(self.total, ir.const(0, self.dtype, self.lanes), ir.lanes_at(0, self.lanes))

    def add(self, word: Any) -> None:
        every = ir.lanes_at(0, self.lanes)
        codes = ir.cast(self.bag.table.load(word, self.start, self.lanes), self.dtype, self.lanes)
        ir.store(self.total, self.total[every] + codes, every)

    def finish(self, row: Any) -> None:
        total = self.total[ir.lanes_at(0, self.lanes)]
        codes = self.bag.codes(total, self.words, self.dtype, self.lanes)
        self.out.store(ir.cast(codes, self.out.dtype, self.lanes), row, self.start, self.lanes)


@dataclass(frozen=True)
class _Paired:
    """Even and odd columns as 16-bit integers; see :func:`wants_bias`.

    Attributes:
        both: sums of the integers, modulo 2**16.
        odd: sums of the odd columns.
    """

    bag: Bag
    out: Matrix
    words: int
    start: int
    lanes: int
    both: Any
    odd: Any

    def clear(self) -> None:
        for total in (self.both, self.odd):
            ir.store(total, ir.const(0, "int16", self.lanes), ir.lanes_at(0, self.lanes))

    def add(self, word: Any) -> None:
        every = ir.lanes_at(0, self.lanes)
        codes = self.bag.table.load(word, self.start, 2 * self.lanes)
        pairs = T.Bind(tirx.reinterpret(ir.vector("int16", self.lanes), codes))
        odd = tirx.shift_right(pairs, ir.const(8, "int16", self.lanes))
        ir.store(self.both, self.both[every] + pairs, every)
        ir.store(self.odd, self.odd[every] + odd, every)

    def finish(self, row: Any) -> None:
        every, eight = ir.lanes_at(0, self.lanes), ir.const(8, "int16", self.lanes)
        odd = T.Bind(self.odd[every])
        bias = self.words * _BIAS
        bias = ir.const(bias if bias < 2**15 else bias - 2**16, "int16", self.lanes)
        even = T.Bind(self.both[every] - tirx.shift_left(odd, eight) - bias)
        even, odd = (
            ir.cast(self.bag.codes(half, self.words, "int16", self.lanes), "int16", self.lanes)
            for half in (even, odd)
        )
        low = tirx.bitwise_and(even, ir.const(0xFF, "int16", self.lanes))
        pairs = tirx.bitwise_or(tirx.shift_left(odd, eight), low)
        codes = tirx.reinterpret(ir.vector("int8", 2 * self.lanes), pairs)
        self.out.store(codes, row if self.out is self.bag.out else 0, self.start, 2 * self.lanes)


def _sums(target: Target, words: int, bag: Bag) -> list[_Sum]:
    if bag.biased and bag.out.dtype == "int8":
        lanes = memory.lanes_of(target, "int16")
        out = bag.out if bag.out.padded else memory.local_row(bag.out.width, "int8")
        return [
            _Paired(
                bag,
                out,
                words,
                start,
                lanes,
                ir.alloc((lanes,), "int16"),
                ir.alloc((lanes,), "int16"),
            )
            for start in range(0, bag.out.width, 2 * lanes)
        ]
    dtype = memory.working_dtype(words * bag.fmt.limit)
    lanes, starts = memory.pieces(
        bag.out.width, memory.lanes_of(target, dtype), bag.out.padded and bag.table.padded
    )
    return [
        _Widened(bag, bag.out, words, start, lanes, dtype, ir.alloc((lanes,), dtype))
        for start in starts
    ]


def _groups(target: Target, sums: list[_Sum]) -> list[list[_Sum]]:
    """Cut into groups that fit the registers."""
    registers = 24 if "avx512" in target.features or "neon" in target.features else 12
    size = registers // 2 if any(isinstance(s, _Paired) for s in sums) else registers
    return [sums[i : i + size] for i in range(0, len(sums), size)]


def _emit_group(words: Matrix, row: Any, out_row: Any, group: list[_Sum], used: Any) -> None:
    """Write some sums of one bag."""
    for s in group:
        s.clear()
    if used is not None:
        ir.store(used, tirx.const(0, "int32"), 0)
    with T.serial(words.width) as w:
        word = T.Bind(words.load(row, w))
        if used is not None:
            ir.store(used, tirx.bitwise_or(used[0], word), 0)
        known: dict[int, Any] = {}
        for s in group:
            rows = s.bag.table.rows
            if rows not in known:
                inside = tirx.all(word >= 0, word < rows)
                known[rows] = T.Bind(tirx.Select(inside, word, tirx.const(0, "int32")))
            s.add(known[rows])
    for s in group:
        s.finish(out_row)
