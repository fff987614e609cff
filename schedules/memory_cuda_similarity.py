"""Steps of threads that compare keys with rows: dot and Hamming similarity, and dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory_cuda_threads import Rows, Threads, local
from tvm_qnn.schedules.memory_cuda_words import Words, pack, words_of
from tvm_qnn.schedules.memory_work import Operation
from tvm_qnn.schedules.plan import ceil_div

_MOST_LANES = 4


@dataclass(frozen=True)
class Similarity:
    """A thread for every pair of a key and a row.

    Attributes:
        threads: of the kernel.
        operation: what is summed.
        rows: of every key, or of a dense layer, which all keys share.
        keys: one row each.
        out: scores, a row for each key.
    """

    threads: Threads
    operation: Operation
    rows: Rows
    keys: Rows
    out: Rows

    def emit(self) -> None:
        """Write the statements."""
        operation, arith, lanes = self.operation, self.arith, max(1, self.lanes)
        fmt, mode, slots = operation.format, operation.mode, self.out.width
        parts, key = arith.parts(mode), self._key()
        with self.threads.each(self.keys.rows * slots) as at:
            k, slot = tirx.floordiv(at, slots), tirx.floormod(at, slots)
            row = slot if operation.kind == "dense" else at
            sums, words = local("int32"), local("uint32", lanes)
            ir.store(sums, tirx.const(0, "int32"), 0)
            with T.serial(self.steps // lanes) as step:
                first = step * lanes
                self._load(words, row, first)
                for i in range(lanes):
                    place = (k * self.steps + first + i) * parts
                    found = [T.Bind(key[place + p]) for p in range(parts)]
                    x = T.Bind(self._within(words[i], first + i))
                    ir.store(sums, arith.add(mode, fmt, sums[0], x, found), 0)
            raw = memory.shift_toward_zero(sums[0], operation.shift, "int32", 1)
            self.out.store(memory.clip(raw, fmt.limit, "int32", 1), k, slot)

    @cached_property
    def arith(self) -> Words:
        """How words are compared."""
        return words_of(self.operation.format.dtype)

    @cached_property
    def lanes(self) -> int:
        """Words of a row that are read at once; 0 where rows begin within words."""
        stride, codes = self.rows.matrix.stride, self.arith.codes
        return next((n for n in (_MOST_LANES, 2, 1) if stride % (n * codes) == 0), 0)

    @property
    def steps(self) -> int:
        """Words of a row, with some beyond its end."""
        return memory.round_up(ceil_div(self.rows.width, self.arith.codes), max(1, self.lanes))

    def _key(self) -> Any:
        """Write what the words of the keys are brought into: [keys, steps, parts]."""
        codes, mode, width = self.arith.codes, self.operation.mode, self.keys.width
        parts = self.arith.parts(mode)
        stored = self.threads.alloc(self.keys.rows * self.steps * parts, "uint32")
        with self.threads.each(self.keys.rows * self.steps) as at:
            k, word = tirx.floordiv(at, self.steps), tirx.floormod(at, self.steps)
            inside = [word * codes + i < width for i in range(codes)]
            read = [
                ir.cast(self.keys.load(k, tirx.min(word * codes + i, width - 1)), "int32")
                for i in range(codes)
            ]
            zero = tirx.const(0, "int32")
            kept = [
                T.Bind(tirx.Select(here, code, zero))
                for here, code in zip(inside, read, strict=True)
            ]
            for p, value in enumerate(self.arith.key(mode, self.operation.format, kept, inside)):
                ir.store(stored, value, at * parts + p)
        return stored

    def _load(self, words: Any, row: Any, first: Any) -> None:
        """Read words of a row from number ``first`` on into registers."""
        codes, width = self.arith.codes, self.rows.width
        if self.lanes:
            some = self.rows.load(row, first * codes, self.lanes * codes)
            kind = ir.vector("uint32", self.lanes)
            ir.store(words, tirx.reinterpret(kind, some), ir.lanes_at(0, self.lanes))
            return
        some = [
            ir.cast(self.rows.load(row, tirx.min(first * codes + i, width - 1)), "int32")
            for i in range(codes)
        ]
        ir.store(words, pack(some, 32 // codes), 0)

    def _within(self, word: Any, number: Any) -> Any:
        """Return a word of a row with 0 for what lies beyond its end."""
        whole, rest = divmod(self.rows.width, self.arith.codes)
        if whole == self.steps:
            return word
        none, every, some = (
            tirx.const(value, "uint32")
            for value in (0, 2**32 - 1, 2 ** (32 // self.arith.codes * rest) - 1)
        )
        beyond = tirx.Select(number == whole, some, none)
        return tirx.bitwise_and(word, tirx.Select(number < whole, every, beyond))
