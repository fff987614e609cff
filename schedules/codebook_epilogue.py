"""From the integer sums for each representation value to what a codebook kernel stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.epilogue import code_of, float_exact, rounded_index
from tvm_qnn.schedules.family import Refusal

UNROLLED = 16
"""Values up to which the terms of a sum are written one by one."""


@dataclass(frozen=True)
class Arguments:
    """The buffers of a kernel behind its activations, weights and constants, in their order.

    Attributes:
        table: float32 [M, rows], the representation values.
        parameters: mul and add float32 [O] of the epilogue, or none.
        out: the result NHWC: float32 sums, float32, or codes.
    """

    table: Any
    parameters: tuple[Any, ...]
    out: Any


def refusal(family: str, work: CodebookWork) -> Refusal | None:
    """Refuse what no family of codebook kernels can store."""
    epilogue = work.conv.epilogue
    if epilogue.pack or epilogue.kind == "threshold":
        return Refusal(family, f"float sums before an epilogue {epilogue.kind!r}", "requantize")
    if not float_exact(epilogue):
        return Refusal(family, f"float32 cannot clip to codes {epilogue.codes}", "fewer bits")
    return None


def output_type(work: CodebookWork) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype of the result of a kernel."""
    conv = work.conv
    shape = (conv.batch, conv.out_height, conv.out_width, conv.out_channels)
    codes = conv.epilogue.codes
    return shape, "float32" if codes is None else codes.dtype


def declare(work: CodebookWork) -> Arguments:
    """Declare these arguments in the open function."""
    table = ir.argument("table", (work.values, work.rows), "float32")
    names = () if work.conv.epilogue.kind == "none" else ("mul", "add")
    parameters = tuple(ir.argument(n, (work.conv.out_channels,), "float32") for n in names)
    return Arguments(table, parameters, ir.argument("out", *output_type(work)))


def summed(count: int, term: Callable[[Any], Any], dtype: str, lanes: int) -> Any:
    """Return ``((term(0) + term(1)) + ...) + term(count - 1)``, for many terms by a loop."""
    if count <= UNROLLED:
        total = term(0)
        for m in range(1, count):
            total = total + term(m)
        return total
    running = ir.alloc((lanes,), dtype)
    every = ir.lanes_at(0, lanes)
    ir.store(running, term(0), every)
    with ir.serial(count - 1) as m:
        ir.store(running, running[every] + term(m + 1), every)
    return running[every]


def combined(
    work: CodebookWork, sums: Callable[[Any], Any], table: Callable[[Any], Any], lanes: int
) -> Any:
    """Combine the sums for all values as :func:`spec.codebook_conv2d` does.

    Args:
        work: the convolution.
        sums: from a code to a vector of sums int32.
        table: from a code to the vector of its value in these lanes.
        lanes: of the vectors.
    """

    def part(m: Any) -> Any:
        return ir.unfused(ir.cast(sums(m), "float32", lanes) * table(m), lanes)

    return summed(work.values, part, "float32", lanes)


def stored_value(work: CodebookWork, y: Any, parameters: tuple[Any, ...], lanes: int) -> Any:
    """Apply the epilogue to float32 sums; ``parameters`` are the vectors mul and add, or none."""
    epilogue = work.conv.epilogue
    if epilogue.kind == "none":
        return y
    mul, add = parameters
    y = ir.unfused(y * mul, lanes) + add
    if epilogue.codes is None:
        return y
    index = rounded_index(y, epilogue.codes, epilogue.zero, epilogue.rounding, lanes)
    return code_of(index, epilogue.codes, lanes)
