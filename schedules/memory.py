"""What the kernels of memory networks share: matrices of codes, vectors over rows, fixed point.

Every operator of a memory network (``qnn.fixed_*``) is written by an *emitter*, a function that
adds its statements to an open PrimFunc. One emitter in a function is the kernel of one operator;
several after another, with local matrices between them, are a fused kernel.

Tensors are matrices here: a memory [N, L, E] has N * L rows of E codes. Arguments are dense. Local
matrices have rows of whole vectors and spare rows, which may be read but hold nothing of use.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.plan import ceil_div
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target

ALIGNMENT = 64
"""Rows of local matrices and of prepared weights are multiples of so many elements."""

SPARE_ROWS = 16
"""Rows behind memories and weights, so that the last block of rows can be read whole."""


@dataclass(frozen=True)
class Matrix:
    """A tensor in an open PrimFunc, as rows.

    Attributes:
        buffer: flat.
        rows: number of rows.
        width: elements of a row.
        stride: elements from one row to the next.
        dtype: of the elements.
        padded: rows may be read and written to their stride; behind memories and weights
            ``SPARE_ROWS`` more may be read.
        offset: of the first row.
    """

    buffer: Any
    rows: int
    width: int
    stride: int
    dtype: str
    padded: bool
    offset: int = 0

    def load(self, row: Any, column: Any, lanes: int = 1) -> Any:
        """Read neighbours of one row."""
        return self.buffer[ir.lanes_at(self.offset + row * self.stride + column, lanes)]

    def store(self, value: Any, row: Any, column: Any, lanes: int = 1) -> None:
        """Write neighbours of one row."""
        at = ir.lanes_at(self.offset + row * self.stride + column, lanes)
        ir.store(self.buffer, value, at)


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """Return the rows and the width of a tensor as a matrix."""
    return math.prod(shape[:-1]), (shape[-1] if shape else 1)


def round_up(size: int, multiple: int = ALIGNMENT) -> int:
    """Return the next multiple."""
    return ceil_div(size, multiple) * multiple


@dataclass(frozen=True)
class Weight:
    """Where ``prepare`` put one matrix of weights.

    Attributes:
        number: of the value.
        rows: number of rows.
        width: elements of a row.
        offset: of the first row.
        biased: ``prepare`` added 128 to the int8 codes of even columns.
    """

    number: int
    rows: int
    width: int
    offset: int
    biased: bool = False


@dataclass(frozen=True)
class Argument:
    """An argument of a kernel: one tensor, or all prepared weights of one dtype.

    Attributes:
        name: of the parameter.
        shape: of the tensor.
        dtype: of the elements.
        weights: what lies in it, if ``prepare`` made it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weights: tuple[Weight, ...] = ()


def place(
    shapes: Mapping[int, Sequence[int]],
    biased: Container[int] = (),
    lean: Container[int] = (),
) -> tuple[tuple[Weight, ...], int]:
    """Put padded matrices behind each other; with their places goes the size of them all.

    Args:
        shapes: rows and width by number.
        biased: numbers of those that are to be biased.
        lean: numbers of those without spare rows.
    """
    placed, size = [], 0
    for number, (rows, width) in shapes.items():
        placed.append(Weight(number, rows, width, size, number in biased))
        size += padded_size(rows, width, 0 if number in lean else SPARE_ROWS)
    return tuple(placed), size


@contextmanager
def arguments(declared: Mapping[int, Argument]) -> Iterator[dict[int, Matrix]]:
    """Declare the arguments of the open function and open its body; bool is seen as int8."""
    buffers = [ir.argument(a.name, a.shape, a.dtype) for a in declared.values()]
    with T.sblock("root"):
        T.reads()
        T.writes()
        found: dict[int, Matrix] = {}
        for (number, argument), buffer in zip(declared.items(), buffers, strict=True):
            for w in argument.weights:
                stride = round_up(w.width)
                found[w.number] = Matrix(
                    buffer, w.rows, w.width, stride, argument.dtype, True, w.offset
                )
            if not argument.weights:
                found[number] = _flat(argument, buffer)
        yield found


def _flat(argument: Argument, buffer: Any) -> Matrix:
    rows, width = rows_of(argument.shape)
    stored = "int8" if argument.dtype == "bool" else argument.dtype
    flat = T.decl_buffer((rows * width,), stored, data=buffer.data)
    return Matrix(flat, rows, width, width, stored, padded=False)


def local_row(width: int, dtype: str) -> Matrix:
    """Allocate a padded row in the open function."""
    stride = round_up(width)
    return Matrix(ir.alloc((stride,), dtype), 1, width, stride, dtype, padded=True)


def padded_size(rows: int, width: int, spare: int = SPARE_ROWS) -> int:
    """Return the elements of a padded matrix."""
    return (rows + spare) * round_up(width)


def pieces(width: int, lanes: int, padded: bool) -> tuple[int, list[int]]:
    """Cut a row into vectors.

    The vectors of a dense row may overlap: what they compute twice is the same.

    Args:
        width: elements of the row.
        lanes: the most elements of a vector, a power of two.
        padded: the row may be read and written beyond its width.

    Returns:
        the elements of a vector, and where each starts.
    """
    if padded:
        lanes = min(lanes, ALIGNMENT)
        return lanes, list(range(0, width, lanes))
    lanes = min(lanes, 1 << (width.bit_length() - 1))
    return lanes, [*range(0, width - lanes, lanes), width - lanes]


def lanes_of(target: Target, dtype: str) -> int:
    """Return the elements of ``dtype`` in a vector register of the target."""
    return target.vector_bytes * 8 // int(dtype.lstrip("uintfloa"))


def working_dtype(bound: int) -> str:
    """Return int16 if it holds every integer up to ``bound`` and its negative, else int32."""
    return "int16" if bound < 2**15 else "int32"


def magnitude(value: Any, dtype: str, lanes: int) -> Any:
    """Return absolute values."""
    return tirx.max(value, ir.const(0, dtype, lanes) - value)


def clip(value: Any, limit: int, dtype: str, lanes: int) -> Any:
    """Saturate to ``[-limit, limit]``."""
    low, high = ir.const(-limit, dtype, lanes), ir.const(limit, dtype, lanes)
    return tirx.max(tirx.min(value, high), low)


def shift_toward_zero(value: Any, bits: int, dtype: str, lanes: int) -> Any:
    """Return ``value / 2**bits`` truncated toward zero (``spec.fixed.shifted``)."""
    if bits == 0:
        return value
    value = T.Bind(value)
    width = int(dtype.removeprefix("int"))
    negative = tirx.shift_right(value, ir.const(width - 1, dtype, lanes))
    up = tirx.bitwise_and(negative, ir.const((1 << bits) - 1, dtype, lanes))
    return tirx.shift_right(value + up, ir.const(bits, dtype, lanes))


def product(a: Any, b: Any, fmt: FixedPoint, dtype: str, lanes: int) -> Any:
    """Multiply codes: truncated and saturated (``spec.fixed.products``).

    Args:
        a: codes, cast to ``dtype``, which holds every product of two codes.
        b: codes, cast to ``dtype``.
        fmt: their format.
        dtype: int16 or int32.
        lanes: of both.
    """
    return clip(shift_toward_zero(a * b, fmt.fraction, dtype, lanes), fmt.limit, dtype, lanes)


def convert(
    value: Any, src: FixedPoint, dst: FixedPoint, dtype: str, lanes: int, bound: int
) -> Any:
    """Saturate sums of codes of ``src`` and bring them into ``dst`` (``spec.fixed_convert``).

    Args:
        value: sums, of ``dtype``.
        src: their format.
        dst: the format of the result.
        dtype: int16 or int32.
        lanes: of ``value``.
        bound: the largest magnitude of ``value``, which the shift must not take out of ``dtype``
            (see :func:`convert_dtype`).
    """
    shift = dst.fraction - src.fraction
    if bound > src.limit and (shift <= 0 or (src.limit << shift) < dst.limit):
        value, bound = clip(value, src.limit, dtype, lanes), src.limit
    if shift > 0:
        value = tirx.shift_left(value, ir.const(shift, dtype, lanes))
    else:
        value = shift_toward_zero(value, -shift, dtype, lanes)
    reached = bound << shift if shift > 0 else bound >> -shift
    return clip(value, dst.limit, dtype, lanes) if reached > dst.limit else value


def convert_dtype(src: FixedPoint, dst: FixedPoint, bound: int) -> str:
    """Return the narrowest dtype in which :func:`convert` is exact for sums up to ``bound``.

    Raises:
        ValueError: if int32 is too narrow.
    """
    largest = max(bound, src.limit) << max(0, dst.fraction - src.fraction)
    if largest >= 2**31:
        raise ValueError(f"sums up to {bound} of {src} do not fit int32 in {dst}")
    return working_dtype(largest)
