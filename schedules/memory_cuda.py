"""Kernels of memory networks on a GPU: each operator as steps of threads.

A fused run is one launch, a block of threads for each sample, where what it keeps fits shared
memory. What is larger is a launch for each step; long sums are made in rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory import Matrix
from tvm_qnn.schedules.memory_cuda_similarity import Similarity
from tvm_qnn.schedules.memory_cuda_threads import MOST_ELEMENTS, Rows, Threads, blocks, local, total
from tvm_qnn.schedules.memory_work import Operation, Work
from tvm_qnn.targets.record import Gpu

_DATA = {"bag": (1,), "dense": (1,), "output": (1,), "softmax": (0, 1)}
"""Which inputs belong to samples, where not all do."""


def build_memory(work: Work, gpu: Gpu, name: str) -> Any:
    """Return the PrimFunc ``(*arguments, *results)``."""
    samples = _samples(work)
    if samples is not None:
        func, threads = _write(work, name, samples)
        if threads.bytes <= gpu.shared_bytes and threads.longest <= MOST_ELEMENTS:
            return func
    return _write(work, name, None)[0]


def _samples(work: Work) -> int | None:
    """Return how many samples every tensor has, None if they differ."""
    data = {n for o in work.operations for n in _data(o)} | {o.output for o in work.operations}
    shapes = [work.shape(number) for number in data]
    firsts = {shape[0] for shape in shapes}
    return firsts.pop() if len(firsts) == 1 and all(len(s) > 1 for s in shapes) else None


def _data(operation: Operation) -> list[int]:
    places = _DATA.get(operation.kind, range(len(operation.inputs)))
    return [operation.inputs[i] for i in places]


def _write(work: Work, name: str, samples: int | None) -> tuple[Any, Threads]:
    """Write a kernel whose blocks have a sample each, or for None all samples."""
    threads = Threads()
    with ir.function(name) as finished:
        declared = {**work.arguments, **work.results}
        with memory.arguments(declared) as matrices:
            if samples is None:
                _Steps(work, threads, matrices, 1).emit()
            else:
                with blocks(samples) as threads.sample:
                    _Steps(work, threads, matrices, samples).emit()
    return finished().with_attrs({**ir.STATIC_ATTRS, "global_symbol": name}), threads


@dataclass
class _Steps:
    """The statements of one kernel.

    Attributes:
        work: what to compute.
        threads: that compute it.
        matrices: arguments and results by number.
        samples: that the blocks of threads share.
        made: what lies between the steps, by number.
    """

    work: Work
    threads: Threads
    matrices: dict[int, Matrix]
    samples: int
    made: dict[int, Rows] = field(default_factory=dict)

    def emit(self) -> None:
        made = set()
        for operation in self.work.operations:
            if operation.kind == "bag":
                made.add(self.work.converted(operation).output)
            if operation.kind == "bag" or operation.output not in made:
                _EMITTERS[operation.kind](self, operation)

    @cached_property
    def data(self) -> set[int]:
        operations = self.work.operations
        return {n for o in operations for n in _data(o)} | {o.output for o in operations}

    def rows(self, number: int) -> Rows:
        """Return a value; what no step has made yet is allocated."""
        if number in self.matrices and number not in self.read_again:
            return self.outside(number)
        if number not in self.made:
            shape, dtype = self.work.shapes[number]
            rows, width = memory.rows_of(shape)
            rows, stored = rows // self.samples, "int8" if dtype == "bool" else dtype
            stride = self.threads.stride(width, stored)
            buffer = self.threads.alloc(rows * stride, stored)
            matrix = Matrix(buffer, rows, width, stride, stored, True)
            copy = self.outside(number) if number in self.matrices else None
            self.made[number] = Rows(matrix, rows, copy=copy)
        return self.made[number]

    def outside(self, number: int) -> Rows:
        """Return an argument or a result."""
        matrix = self.matrices[number]
        if number not in self.data or self.threads.sample is None:
            return Rows(matrix, matrix.rows)
        rows = matrix.rows // self.samples
        return Rows(matrix, rows, self.threads.sample * rows)

    @cached_property
    def read_again(self) -> set[int]:
        """Results that later steps of the same launch read: barriers order shared memory only."""
        if self.threads.sample is None:
            return set()
        read = {number for o in self.work.operations for number in o.inputs}
        return read & self.work.results.keys()

    def values(self, operation: Operation) -> list[Rows]:
        return [self.rows(number) for number in (*operation.inputs, operation.output)]

    def each(self, rows: Rows, body: Callable[[Any, Any], Any]) -> None:
        """Write ``body`` of every (row, column)."""
        with self.threads.each(rows.rows * rows.width) as at:
            row, column = tirx.floordiv(at, rows.width), tirx.floormod(at, rows.width)
            rows.store(body(row, column), row, column)

    def bag(self, operation: Operation) -> None:
        table, words = self.rows(operation.inputs[0]), self.rows(operation.inputs[1])
        last, bound = self.work.converted(operation), words.width * operation.format.limit

        def body(row: Any, column: Any) -> Any:
            sums = local("int32")
            ir.store(sums, tirx.const(0, "int32"), 0)
            with T.serial(words.width) as w:
                word = T.Bind(words.load(row, w))
                inside = tirx.all(word >= 0, word < table.rows)
                known = tirx.Select(inside, word, tirx.const(0, "int32"))
                ir.store(sums, sums[0] + ir.cast(table.load(known, column), "int32"), 0)
            return memory.convert(sums[0], operation.format, last.format, "int32", 1, bound)

        self.each(self.rows(last.output), body)

    def valid(self, operation: Operation) -> None:
        words, out = self.values(operation)

        def body(row: Any, slot: Any) -> Any:
            used = local("int32")
            ir.store(used, tirx.const(0, "int32"), 0)
            with T.serial(words.width) as w:
                word = words.load(row * out.width + slot, w)
                ir.store(used, tirx.bitwise_or(used[0], word), 0)
            return tirx.Select(used[0] != 0, tirx.const(1, "int8"), tirx.const(0, "int8"))

        self.each(out, body)

    def convert(self, operation: Operation) -> None:
        codes, out = self.values(operation)
        src = operation.src
        assert src is not None

        def body(row: Any, column: Any) -> Any:
            code = ir.cast(codes.load(row, column), "int32")
            return memory.convert(code, src, operation.format, "int32", 1, src.limit)

        self.each(out, body)

    def add(self, operation: Operation) -> None:
        *inputs, out = self.values(operation)

        def body(row: Any, column: Any) -> Any:
            a, b = (ir.cast(codes.load(row, column), "int32") for codes in inputs)
            return memory.clip(a + b, operation.format.limit, "int32", 1)

        self.each(out, body)

    def similarity(self, operation: Operation) -> None:
        rows, keys, out = self.values(operation)
        Similarity(self.threads, operation, rows, keys, out).emit()

    def softmax(self, operation: Operation) -> None:
        """Write ``spec.fixed_softmax``; for the division in float64 see :mod:`memory_read`."""
        scores, used, table, out = self.values(operation)
        fmt, slots = operation.format, scores.width
        shape = (scores.rows, slots, 1)

        def compare(best: Any, n: Any, slot: Any, _: Any) -> None:
            score = ir.cast(scores.load(n, slot), "int32")
            counts = used.load(n, slot) != tirx.const(0, "int8")
            ir.store(best, tirx.max(best[0], tirx.Select(counts, score, best[0])), 0)

        largest = total(self.threads, shape, "int32", -fmt.limit, compare, tirx.max)
        weights = self.threads.alloc(scores.rows * slots, "int32")
        with self.threads.each(scores.rows * slots) as at:
            n, slot = tirx.floordiv(at, slots), tirx.floormod(at, slots)
            distance = largest(n, 0) - ir.cast(scores.load(n, slot), "int32")
            # Scores of slots that do not count may be larger; they are clipped to a valid index.
            index = tirx.max(tirx.min(distance, 2 * fmt.limit), 0)
            counts = used.load(n, slot) != tirx.const(0, "int8")
            weight = tirx.Select(counts, table.load(0, index), tirx.const(0, "int32"))
            ir.store(weights, weight, at)

        def add(sums: Any, n: Any, slot: Any, _: Any) -> None:
            ir.store(sums, sums[0] + ir.cast(weights[n * slots + slot], "int64"), 0)

        sums = total(self.threads, shape, "int64", 0, add, lambda a, b: a + b)

        def share(n: Any, slot: Any) -> Any:
            weight = T.Bind(weights[n * slots + slot])
            scaled = ir.cast(weight, "float64") * tirx.const(2.0**fmt.fraction, "float64")
            whole = ir.cast(tirx.max(sums(n, 0), tirx.const(1, "int64")), "float64")
            found = tirx.min(ir.cast(scaled / whole, "int32"), fmt.limit)
            # Most weights are 0, and divisions are slow.
            return tirx.if_then_else(weight == 0, tirx.const(0, "int32"), found)

        self.each(out, share)

    def read(self, operation: Operation) -> None:
        p, rows, out = self.values(operation)
        fmt, slots = operation.format, p.width

        def add(sums: Any, n: Any, slot: Any, column: Any) -> None:
            weight = T.Bind(ir.cast(p.load(n, slot), "int32"))
            # Most are 0: their rows are not read.
            with ir.guard(weight != 0):
                code = ir.cast(rows.load(n * slots + slot, column), "int32")
                ir.store(sums, sums[0] + memory.product(code, weight, fmt, "int32", 1), 0)

        shape = (p.rows, slots, out.width)
        sums = total(self.threads, shape, "int32", 0, add, lambda a, b: a + b)
        self.each(out, lambda n, e: memory.clip(sums(n, e), fmt.limit, "int32", 1))

    def logits(self, operation: Operation) -> None:
        """Write ``spec.fixed_output``; sums run in the order of the definition."""
        weights, keys, out = self.values(operation)
        unit = tirx.const(2.0**-operation.format.fraction, "float32")

        def body(n: Any, answer: Any) -> Any:
            sums = local("float32")
            ir.store(sums, tirx.const(0, "float32"), 0)
            with T.serial(keys.width) as e:
                scaled = weights.load(e, answer) * (ir.cast(keys.load(n, e), "float32") * unit)
                ir.store(sums, sums[0] + ir.unfused(scaled), 0)
            return sums[0]

        self.each(out, body)


_EMITTERS: dict[str, Callable[[_Steps, Operation], None]] = {
    "bag": _Steps.bag,
    "valid": _Steps.valid,
    "convert": _Steps.convert,
    "dense": _Steps.similarity,
    "similarity": _Steps.similarity,
    "hamming": _Steps.similarity,
    "softmax": _Steps.softmax,
    "read": _Steps.read,
    "add": _Steps.add,
    "output": _Steps.logits,
}
