"""One PrimFunc for one operator of a memory network, or for several that are fused.

A kernel is given as a list of operations on numbered values, in order. What is neither an argument
nor a result of the kernel becomes a local matrix. Three things are more than the sum of the parts:
embeddings of the same words are made in one pass, an embedding that only a conversion reads is
stored in the format of the conversion, and one that only a weighted sum reads is made there, for
the slots whose weight is not 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory, memory_cuda
from tvm_qnn.schedules.family import Kernel
from tvm_qnn.schedules.memory import Argument, Matrix, Weight
from tvm_qnn.schedules.memory_bag import Bag, BagRows, emit_bags
from tvm_qnn.schedules.memory_cuda_threads import Threads
from tvm_qnn.schedules.memory_pointwise import emit_add, emit_convert, emit_output
from tvm_qnn.schedules.memory_read import emit_read, emit_softmax
from tvm_qnn.schedules.memory_similarity import emit_similarity
from tvm_qnn.schedules.memory_work import Operation, Work
from tvm_qnn.schedules.prepare import stream_index
from tvm_qnn.spec import FixedPoint, packed_bytes
from tvm_qnn.targets.record import Target


def build_memory(work: Work, target: Target, name: str) -> Any:
    """Return the PrimFunc ``(*arguments, *results)``."""
    if target.gpu is not None:
        return memory_cuda.build_memory(work, target.gpu, name)
    with ir.function(name) as finished:
        declared = {**work.arguments, **work.results}
        with memory.arguments(declared) as matrices:
            _Emitter(work, target, matrices).emit()
    return finished().with_attrs({**ir.STATIC_ATTRS, "global_symbol": name})


@dataclass
class _Emitter:
    """The statements of one kernel.

    Attributes:
        work: what to compute.
        target: the device.
        values: matrices by number.
        done: numbers of results that an earlier operation has made.
    """

    work: Work
    target: Target
    values: dict[int, Matrix]
    done: set[int] = field(default_factory=set)

    @cached_property
    def biased(self) -> set[int]:
        arguments = self.work.arguments.values()
        return {w.number for a in arguments for w in a.weights if w.biased}

    @cached_property
    def late(self) -> dict[int, Operation]:
        """Embeddings that are made where they are read, by the number of what is read."""
        found = {}
        for bag in (o for o in self.work.operations if o.kind == "bag" and self._ready(o)):
            number = self.work.converted(bag).output
            readers = [o for o in self.work.operations if number in o.inputs]
            only = (
                len(readers) == 1 and readers[0].kind == "read" and number not in self.work.results
            )
            if only and readers[0].inputs[0] != number:
                found[number] = bag
        return found

    @cached_property
    def places(self) -> dict[int, Matrix]:
        """Allocate the local matrices, all of one dtype at once."""
        shapes: dict[str, dict[int, tuple[int, int]]] = {}
        compared = {o.inputs[0] for o in self.work.operations if o.kind == "dense"}
        lean: set[int] = set()
        for o in self.work.operations:
            inner = o.kind == "bag" and self.work.converted(o) is not o
            if o.output not in self.values and o.output not in self.late and not inner:
                shape, dtype = self.work.shapes[o.output]
                stored = "int8" if dtype == "bool" else dtype
                shapes.setdefault(stored, {})[o.output] = memory.rows_of(shape)
                if len(shape) < 3 and o.output not in compared:
                    lean.add(o.output)
        found = {}
        for dtype, wanted in shapes.items():
            placed, size = memory.place(wanted, lean=lean)
            buffer = ir.alloc((size,), dtype)
            for w in placed:
                stride = memory.round_up(w.width)
                found[w.number] = Matrix(buffer, w.rows, w.width, stride, dtype, True, w.offset)
        return found

    def emit(self) -> None:
        for number, bag in self.late.items():
            self.done.update((bag.output, number))
        for operation in self.work.operations:
            if operation.output not in self.done:
                _EMITTERS[operation.kind](self, operation)
                self.done.add(operation.output)

    def inputs(self, operation: Operation) -> list[Matrix]:
        return [self.values[number] for number in operation.inputs]

    def output(self, number: int) -> Matrix:
        if number not in self.values:
            self.values[number] = self.places[number]
        return self.values[number]

    def bags(self, first: Operation) -> None:
        """Write all embeddings of the words of ``first``, and which of them are used."""
        words = first.inputs[-1]
        same = [
            o for o in self.work.operations
            if o.kind in ("bag", "valid") and o.inputs[-1] == words and self._ready(o)
            and o.output not in self.done
        ]  # fmt: skip
        valid = next((o for o in same if o.kind == "valid"), None)
        made: dict[Any, Bag] = {}
        for operation in same:
            if operation.kind == "bag":
                last = self.work.converted(operation)
                self.done.update((operation.output, last.output))
                key = (operation.inputs[0], operation.format, last.format)
                if key in made and last.output not in self.values:
                    self.values[last.output] = made[key].out
                    continue
                made[key] = self._bag(operation, self.output(last.output))
        used = None
        if valid is not None:
            used = self.output(valid.output)
            self.done.add(valid.output)
        emit_bags(self.target, self.values[words], list(made.values()), used)

    def _bag(self, bag: Operation, out: Matrix) -> Bag:
        number = bag.inputs[0]
        fmt = self.work.converted(bag).format
        return Bag(self.values[number], bag.format, out, fmt, number in self.biased)

    def _ready(self, operation: Operation) -> bool:
        return all(number in self.values for number in operation.inputs)

    def similarity(self, operation: Operation) -> None:
        rows, keys = self.inputs(operation)
        emit_similarity(self.target, operation, rows, keys, self.output(operation.output))

    def softmax(self, operation: Operation) -> None:
        scores, used, table = self.inputs(operation)
        out = self.output(operation.output)
        emit_softmax(self.target, operation.format, scores, used, table, out)

    def read(self, operation: Operation) -> None:
        out = self.output(operation.output)
        weights, number = self.values[operation.inputs[0]], operation.inputs[1]
        if number not in self.late:
            emit_read(self.target, operation.format, weights, self.values[number], out)
            return
        bag = self.late[number]
        scratch = memory.local_row(out.width, self.work.shapes[number][1])
        rows = BagRows(self.target, self.values[bag.inputs[1]], self._bag(bag, scratch))
        emit_read(self.target, operation.format, weights, rows, out)

    def convert(self, operation: Operation) -> None:
        assert operation.src is not None
        (codes,) = self.inputs(operation)
        out = self.output(operation.output)
        emit_convert(self.target, operation.src, operation.format, codes, out)

    def add(self, operation: Operation) -> None:
        a, b = self.inputs(operation)
        emit_add(self.target, operation.format, a, b, self.output(operation.output))

    def logits(self, operation: Operation) -> None:
        weights, key = self.inputs(operation)
        emit_output(self.target, operation.format, weights, key, self.output(operation.output))


_EMITTERS: dict[str, Callable[[_Emitter, Operation], None]] = {
    "bag": _Emitter.bags,
    "valid": _Emitter.bags,
    "convert": _Emitter.convert,
    "dense": _Emitter.similarity,
    "similarity": _Emitter.similarity,
    "hamming": _Emitter.similarity,
    "softmax": _Emitter.softmax,
    "read": _Emitter.read,
    "add": _Emitter.add,
    "output": _Emitter.logits,
}


def prepared_weights(weights: Sequence[Weight], fmt: FixedPoint, target: Target) -> Kernel:
    """Return how weights become padded matrices when an artifact is loaded.

    Args:
        weights: where they go, in the order of their codes in the stream.
        fmt: a format of their number of bits.
        target: the device.

    Returns:
        A kernel without ``func``; its ``prepare`` takes the dense bit stream of all codes.
    """
    count = sum(w.rows * w.width for w in weights)
    size = sum(memory.padded_size(w.rows, w.width) for w in weights)
    bytes_ = packed_bytes(count, fmt.bits)
    declared = {
        0: Argument("stream", (bytes_,), "uint8"),
        1: Argument("packed", (size,), fmt.dtype),
    }
    with ir.function("prepare") as finished, memory.arguments(declared) as matrices:
        first = 0
        for w in weights:
            stride = memory.round_up(w.width)
            rows = memory.padded_size(w.rows, w.width) // stride
            with _elements(rows, stride, target) as (row, column):
                at = tirx.min(row, w.rows - 1) * w.width + tirx.min(column, w.width - 1)
                index = stream_index(matrices[0].buffer, first + at, fmt.bits)
                inside = tirx.all(row < w.rows, column < w.width)
                code = tirx.Select(inside, index - fmt.limit, 0)
                if w.biased:
                    code = code + tirx.Select(column % 2 == 0, tirx.const(128, "int32"), 0)
                matrices[1].store(code.astype(fmt.dtype), 0, w.offset + row * stride + column)
            first += w.rows * w.width
    func = finished().with_attrs({**ir.STATIC_ATTRS, "global_symbol": "prepare"})
    return Kernel("qmemory", None, func, (size,), fmt.dtype)


@contextmanager
def _elements(rows: int, columns: int, target: Target) -> Iterator[tuple[Any, Any]]:
    """Run the statements inside for every element of a matrix."""
    if target.gpu is None:
        with T.serial(rows) as row, T.serial(columns) as column:
            yield row, column
    else:
        with Threads().each(rows * columns) as at:
            yield tirx.floordiv(at, columns), tirx.floormod(at, columns)
