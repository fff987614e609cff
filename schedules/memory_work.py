"""What a kernel of a memory network has to do: operators on numbered values, in their order."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_qnn.schedules.memory import Argument, convert_dtype
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import hamming_shift

DOT, BINARY, HAMMING = "dot", "binary", "hamming"
"""What is summed: products with a key, with the signs of a key, or agreements with a key."""


@dataclass(frozen=True)
class Operation:
    """One operator.

    Attributes:
        kind: ``bag``, ``valid``, ``convert``, ``dense``, ``similarity``, ``hamming``, ``softmax``,
            ``read``, ``add`` or ``output``.
        inputs: numbers of values, in the order of the definition in ``tvm_qnn.spec``; a softmax has
            its table as third.
        output: number of the result.
        fmt: the format; None for ``valid``.
        src: the format that ``convert`` reads.
        binary: the key counts by its signs.
        alpha: exponent of the weight of bits of ``hamming``.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    fmt: FixedPoint | None = None
    src: FixedPoint | None = None
    binary: bool = False
    alpha: int = -3

    @property
    def format(self) -> FixedPoint:
        """The format, of an operation that has one."""
        assert self.fmt is not None, self.kind
        return self.fmt

    @property
    def mode(self) -> str:
        """What an operation that compares rows with a key sums."""
        return HAMMING if self.kind == "hamming" else BINARY if self.binary else DOT

    @property
    def shift(self) -> int:
        """Bits to drop from a raw sum."""
        return hamming_shift(self.format, self.alpha) if self.mode == HAMMING else 0


@dataclass(frozen=True)
class Work:
    """What a kernel computes.

    Attributes:
        arguments: what it reads, by number, in the order of its parameters; the weights in an
            argument have numbers of their own.
        results: what it writes, by number, the last parameters.
        shapes: shape and dtype of every other value.
        operations: in an order in which they can run.
    """

    arguments: dict[int, Argument]
    results: dict[int, Argument]
    shapes: dict[int, tuple[tuple[int, ...], str]]
    operations: tuple[Operation, ...]

    def converted(self, bag: Operation) -> Operation:
        """Return the conversion that alone reads a bag and can be made with it, or the bag."""
        readers = [o for o in self.operations if bag.output in o.inputs]
        if bag.output in self.results or len(readers) != 1 or readers[0].kind != "convert":
            return bag
        words = self.shape(bag.inputs[-1])[-1]
        try:
            convert_dtype(bag.format, readers[0].format, words * bag.format.limit)
        except ValueError:
            return bag
        return readers[0]

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of a value."""
        declared = {**self.arguments, **self.results}
        return declared[number].shape if number in declared else self.shapes[number][0]
