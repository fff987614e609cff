"""Where the threads of a memory network's kernel run on a GPU, and what they share.

A kernel is a row of steps, each with a thread for every element. Either a block of threads has one
sample and goes from step to step, with shared memory between them, or all blocks have all samples
and each step is a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.schedules.plan import ceil_div

THREADS = 256
"""Of a block."""
MOST_ELEMENTS = 1 << 14
"""That one block computes in a step; for more, all blocks share each step."""
_ROUND = 16
"""Elements that a thread adds up in a round of a sum."""
_WORD_BYTES = 4
_VECTOR_BYTES = 16


@dataclass
class Threads:
    """Where the statements of a kernel run.

    Attributes:
        sample: number of the sample of a block of threads; None where all blocks have all samples.
        bytes: of shared memory that the steps keep.
        longest: most elements of a step.
    """

    sample: Any = None
    bytes: int = 0
    longest: int = 0

    def alloc(self, size: int, dtype: str) -> Any:
        """Allocate what one step writes and another one reads."""
        if self.sample is None:
            return ir.alloc((size,), dtype)
        self.bytes += size * _bytes_of(dtype)
        return ir.alloc((size,), dtype, scope="shared")

    def stride(self, width: int, dtype: str) -> int:
        """Return the elements from one row to the next: whole words in different banks."""
        if self.sample is None:
            return memory.round_up(width, _VECTOR_BYTES // _bytes_of(dtype))
        word = max(1, _WORD_BYTES // _bytes_of(dtype))
        return (ceil_div(width, word) | 1) * word

    @contextmanager
    def each(self, count: int) -> Iterator[Any]:
        """Run the statements inside once for each number below ``count``."""
        self.longest = max(self.longest, count)
        rounds = ceil_div(count, THREADS)
        if self.sample is not None:
            # TVM 0.27 sees no dependences between buffers that it puts in the same memory.
            T.evaluate(T.tvm_storage_sync("shared"))
        outer = T.serial if self.sample is not None else blocks
        with outer(rounds) as r, T.thread_binding(0, THREADS, "threadIdx.x") as t:
            at = T.Bind(r * THREADS + t)
            with ir.guard(at < count if count % THREADS else None):
                yield at


def blocks(count: int) -> Any:
    """Open a loop whose numbers are blocks of threads."""
    return T.thread_binding(0, count, "blockIdx.x")


def _bytes_of(dtype: str) -> int:
    return int(dtype.lstrip("uintfloa")) // 8


def local(dtype: str, size: int = 1) -> Any:
    """Allocate registers of a thread."""
    return ir.alloc((size,), dtype, scope="local")


@dataclass(frozen=True)
class Rows:
    """The rows of a tensor that the statements of a kernel see.

    Attributes:
        matrix: of all rows.
        rows: how many.
        first: of them.
        copy: what is stored goes there as well.
    """

    matrix: Matrix
    rows: int
    first: Any = 0
    copy: Rows | None = None

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.matrix.width

    def load(self, row: Any, column: Any, lanes: int = 1) -> Any:
        """Read neighbours of one row."""
        return self.matrix.load(self.first + row, column, lanes)

    def store(self, value: Any, row: Any, column: Any) -> None:
        """Write an element as the dtype of the matrix."""
        self.matrix.store(ir.cast(value, self.matrix.dtype), self.first + row, column)
        if self.copy is not None:
            self.copy.store(value, row, column)


def total(
    threads: Threads, shape: tuple[int, int, int], dtype: str, start: Any,
    add: Callable[[Any, Any, Any, Any], None], combine: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], Any]:  # fmt: skip
    """Write a sum over the middle axis of ``shape``, in rounds of a few elements a thread.

    Args:
        threads: of the kernel.
        shape: groups, elements of a group, columns.
        dtype: of the sums.
        start: what no elements make.
        add: writes the addition of an element (group, number, column) to a register.
        combine: two sums.

    Returns:
        from (group, column) to the sum.
    """
    groups, count, columns = shape
    while True:
        parts = ceil_div(count, _ROUND)
        sums = threads.alloc(groups * parts * columns, dtype)
        with threads.each(groups * parts * columns) as at:
            part = tirx.floormod(tirx.floordiv(at, columns), parts)
            group, column = tirx.floordiv(at, parts * columns), tirx.floormod(at, columns)
            acc = local(dtype)
            ir.store(acc, tirx.const(start, dtype), 0)
            with T.serial(ceil_div(count, parts)) as i:
                # Neighbours in a group are read by neighbouring threads.
                number = T.Bind(i * parts + part)
                with ir.guard(number < count):
                    add(acc, group, number, column)
            ir.store(sums, acc[0], at)
        if parts == 1:
            return lambda group, column: sums[group * columns + column]
        count, add = parts, _adder(sums, parts, columns, combine)


def _adder(
    sums: Any, parts: int, columns: int, combine: Callable[[Any, Any], Any]
) -> Callable[[Any, Any, Any, Any], None]:
    def add(acc: Any, group: Any, number: Any, column: Any) -> None:
        ir.store(acc, combine(acc[0], sums[(group * parts + number) * columns + column]), 0)

    return add
