"""The blocks from sums of digit products to the result of a kernel, and its last arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.algebra import Correction
from tvm_qnn.schedules.epilogue import (
    affine,
    code_of,
    counted_index,
    has_result,
    output_type,
    parameter_types,
    prepare_parameters,
    rounded_index,
)
from tvm_qnn.schedules.plan import WORD, Plan
from tvm_qnn.schedules.stages import PACK_ANYWHERE, PackWord, unflatten

Sums = Callable[[Any, Any, Any, Any], Any]
"""From (n, h, w, block of channels) to the vector of int32 sums D there."""


def constants_of(correction: Correction, plan: Plan) -> tuple[NDArray[np.int32], ...]:
    """Return the static arguments of a kernel, channels filled up with 0.

    They are, as far as needed, the slopes [O] where channels differ, the static term [O] or [row
    classes, column classes, O], and for the latter the classes of output rows and columns; where
    all pixels form one row, the term is [classes, O] with the classes of all pixels.
    """
    found: list[NDArray[np.int32]] = []

    def filled(a: NDArray[np.int32], axis: int, size: int) -> NDArray[np.int32]:
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, size - a.shape[axis])
        return np.ascontiguousarray(np.pad(a, widths))

    if correction.slope is not None and correction.common_slope is None:
        found.append(filled(correction.slope, 0, plan.channels))
    if correction.static is not None:
        static = correction.static if correction.bordered else correction.static[0, 0]
        static = filled(static, static.ndim - 1, plan.channels)
        if not correction.bordered:
            found.append(static)
        elif plan.flat:
            image = correction.rows[:, None] * static.shape[1] + correction.columns
            classes = np.tile(image.reshape(-1), plan.width // image.size)
            found.append(static.reshape(-1, plan.channels))
            found.append(filled(classes, 0, plan.width_stored))
        else:
            found.append(static)
            found.append(correction.rows)
            found.append(filled(correction.columns, 0, plan.width_stored))
    return tuple(found)


@dataclass(frozen=True)
class Arguments:
    """The buffers of a kernel after the activations and the weights, in the order of arguments."""

    constants: tuple[Any, ...]
    parameters: tuple[Any, ...]
    out: Any


def declare(work: ConvWork, constants: tuple[NDArray[np.int32], ...]) -> Arguments:
    """Declare these arguments in the open function."""
    static = tuple(ir.argument(f"constant_{i}", a.shape, "int32") for i, a in enumerate(constants))
    parameters = tuple(ir.argument(*p) for p in parameter_types(work))
    return Arguments(static, parameters, ir.argument("out", *output_type(work)))


def accumulators(
    work: ConvWork,
    plan: Plan,
    correction: Correction,
    args: Arguments,
    sums: Sums,
    window_sums: Any,
) -> Sums:
    """Return the accumulators of ``spec.conv2d`` from the sums of digit products.

    Args:
        work: the convolution.
        plan: its loops.
        correction: what to add.
        args: arguments of the kernel.
        sums: the sums D.
        window_sums: the sums S [N, OH, OW, groups], or None without a slope.
    """
    constants = list(args.constants)
    lanes, common = plan.lanes, correction.common_slope
    slope = constants.pop(0) if correction.slope is not None and common is None else None

    def window_sum(n: Any, h: Any, w: Any, block: Any) -> Any:
        if work.groups == 1:
            return ir.splat(window_sums[n, h, w, 0], lanes)
        if work.depthwise:
            return window_sums[n, h, w, ir.lanes_at(block * lanes, lanes)]
        # The groups of a register of channels may differ: one lane only.
        group = tirx.floordiv(block, work.out_channels // work.groups)
        return window_sums[n, h, w, tirx.min(group, work.groups - 1)]

    def total(n: Any, h: Any, w: Any, block: Any) -> Any:
        acc, at = sums(n, h, w, block), ir.lanes_at(block * lanes, lanes)
        if correction.scale != 1:
            acc = acc * ir.const(correction.scale, "int32", lanes)
        if common == 1:
            acc = acc + window_sum(n, h, w, block)
        elif common == -1:
            # Ternary weights: their indices are one more than their values.
            acc = acc - window_sum(n, h, w, block)
        elif common is not None:
            acc = acc + window_sum(n, h, w, block) * ir.const(common, "int32", lanes)
        elif slope is not None:
            acc = acc + window_sum(n, h, w, block) * slope[at]
        if correction.bordered and plan.flat:
            static, classes = constants
            acc = acc + static[classes[w], at]
        elif correction.bordered:
            static, rows, columns = constants
            acc = acc + static[rows[h], columns[w], at]
        elif correction.static is not None:
            acc = acc + constants[0][at]
        return acc

    return total


def emit_output(
    work: ConvWork,
    plan: Plan,
    total: Sums,
    args: Arguments,
    word_of: PackWord = PACK_ANYWHERE,
    read_later: bool = False,
) -> None:
    """Write the blocks from accumulators to the result.

    The last block is ``out`` over (n, h, w, block of channels), of one register, or of one word of
    channels when packing. Between it and the accumulators there may be a block ``result``.

    Args:
        work: the convolution.
        plan: its loops.
        total: int32 accumulators of a register of channels.
        args: arguments of the kernel.
        word_of: how the target collects a bit plane.
        read_later: another block of the kernel reads the result. Schedule primitives must then know
            that it is written as a whole, which they cannot derive from pixels counted in a row.
    """
    epilogue, codes, lanes = work.epilogue, work.epilogue.codes, plan.lanes
    parameters = prepare_parameters(work, plan, args.parameters)
    shape = (plan.batch, plan.height, plan.width_stored)

    def value(n: Any, h: Any, w: Any, block: Any) -> Any:
        acc, at = total(n, h, w, block), ir.lanes_at(block * lanes, lanes)
        if epilogue.kind == "none":
            return acc
        first, second = parameters
        if epilogue.kind == "affine":
            return affine(acc, first[at], second[at], lanes)
        assert codes is not None
        if epilogue.kind == "threshold":
            index = counted_index(acc, first, second, at, lanes)
        else:
            y = affine(acc, first[at], second[at], lanes)
            index = rounded_index(y, codes, epilogue.zero, epilogue.rounding, lanes)
        if epilogue.pack:
            return ir.cast(index, "uint8", lanes)
        return code_of(index, codes, lanes)

    def place(n: Any, h: Any, w: Any) -> tuple[Any, Any, Any]:
        return unflatten(plan, work.out_height, work.out_width, n, h, w)

    if not has_result(work, plan):
        with ir.stage("out", (*shape, plan.columns)) as axes:
            *position, block = axes
            if read_later:
                ir.accesses(None, [ir.whole(args.out)])
            with inside_row(axes, plan):
                at = ir.lanes_at(block * lanes, lanes)
                ir.store(args.out, value(*axes), *place(*position), at)
        return
    dtype = "uint8" if epilogue.pack else output_type(work)[1]
    result = ir.alloc((*shape, plan.channels), dtype)
    with ir.stage("result", (*shape, plan.columns)) as (n, h, w, block):
        ir.store(result, value(n, h, w, block), n, h, w, ir.lanes_at(block * lanes, lanes))
    if epilogue.pack:
        assert codes is not None
        stored = plan.channels // WORD
        words = int(args.out.shape[4])
        with ir.stage("out", (*shape, stored)) as axes, inside_row(axes, plan):
            *position, k = axes
            indices = word_of.read(result, position, k * WORD)
            with ir.guard(k < words if stored != words else None):
                for p in range(codes.bits):
                    ir.store(args.out, word_of.word(indices, p), *place(*position), p, k)
        return
    whole, rest = divmod(work.out_channels, lanes)
    with ir.stage("out", (*shape, plan.columns)) as axes:
        *position, block = axes
        # What is read must be known by block, for ``result`` to nest into the tiles of this block.
        span = slice(block * lanes, block * lanes + lanes)
        written = ir.whole(args.out) if read_later else args.out[(*place(*position), span)]
        ir.accesses([result[(*position, span)]], [written])
        with inside_row(axes, plan), ir.guard(block < whole):
            at = ir.lanes_at(block * lanes, lanes)
            ir.store(args.out, result[(*position, at)], *place(*position), at)
        if rest:
            with inside_row(axes, plan), ir.guard(block == whole), ir.serial(rest) as lane:
                element = result[(*position, block * lanes + lane)]
                ir.store(args.out, element, *place(*position), whole * lanes + lane)


def inside_row(axes: list[Any], plan: Plan) -> Any:
    """Guard a store where the last tile of a row is wider than the row."""
    return ir.guard(axes[2] < plan.width if plan.width_stored != plan.width else None)
