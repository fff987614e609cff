"""Families of codebook convolutions that are integer convolutions with indicator weights.

The sum for a representation value is a convolution with weights that are 1 where the weight has
that code. M - 1 such sums for each output channel, and one channel of ones for all of them (for
each group), are an ordinary convolution with 1-bit weights, which the families of integer
convolutions compute; the sum for code 0 is what the others leave of the sum over all taps. One more
loop in the same kernel combines the sums.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import te, tirx
from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.schedules import epilogue, ir, output
from tvm_qnn.schedules.algebra import correct
from tvm_qnn.schedules.architecture import ByArchitecture
from tvm_qnn.schedules.codebook_epilogue import (
    Arguments,
    combined,
    declare,
    refusal,
    stored_value,
    summed,
)
from tvm_qnn.schedules.family import Kernel, Refusal
from tvm_qnn.schedules.prepare import layout_func, stream_indices
from tvm_qnn.schedules.stages import pack_word_for
from tvm_qnn.schedules.tiled import TiledFamily, input_type
from tvm_qnn.schedules.tiling import scheduled
from tvm_qnn.spec import Codes, packed_bytes
from tvm_qnn.targets.record import Target

_COMBINE_CYCLES = 1.0
"""Estimate for one vector of sums of one value: load, convert, multiply, add, store before."""


def channels_of_group(work: CodebookWork) -> int:
    """Return the indicator channels of one group: M - 1 for each output channel, and one."""
    return (work.values - 1) * (work.conv.out_channels // work.conv.groups) + 1


def indicator_work(work: CodebookWork) -> ConvWork:
    """Return the integer convolution that computes all sums."""
    channels = channels_of_group(work) * work.conv.groups
    return replace(work.conv, out_channels=channels, w=Codes(0, 1), epilogue=Epilogue())


def indicators(work: CodebookWork, index: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the weights of :func:`indicator_work` for codebook indices OHWI."""
    groups, found = np.split(np.asarray(index), work.conv.groups), []
    for group in groups:
        found += [group == m for m in range(1, work.values)] + [np.ones_like(group[:1])]
    return np.concatenate(found).astype(np.uint8)


class Indicators:
    """Codebook convolutions by a family of integer convolutions, whose name it bears.

    Args:
        family: computes the sums.
    """

    def __init__(self, family: TiledFamily | ByArchitecture) -> None:
        self.name = family.name
        self._family = family

    def supports(self, work: CodebookWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        inner = indicator_work(work)
        if inner.depthwise and self.name != "reference":
            # A single value leaves one sum a channel; LLVM does not come back from such a kernel.
            return Refusal(self.name, "one value in channel groups", "taps or reference take it")
        return refusal(self.name, work) or self._family.supports(inner, target)

    def cycles(self, work: CodebookWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        inner = indicator_work(work)
        sums = inner.batch * inner.out_height * inner.out_width * inner.out_channels
        combine = 4 * _COMBINE_CYCLES * sums / target.vector_bytes * 4
        return self._family.cycles(inner, target) + combine

    def compute(self, work: CodebookWork, target: Target) -> Any:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self._compute(work, target, np.zeros(work.conv.weight_shape, np.uint8))[0]

    def schedule(self, sch: Any, work: CodebookWork, target: Target) -> None:
        """Schedule the sums as their family does; the combination stays as it is."""
        self._family.schedule(sch, indicator_work(work), target)

    def build(
        self, work: CodebookWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        func, constants = self._compute(work, target, weights)
        inner, name = indicator_work(work), work.name(self.name)
        packed = self._tiled(inner, target).packed(inner, target)
        count = int(np.prod(work.conv.weight_shape))
        stream = te.placeholder((packed_bytes(count, work.conv.w.bits),), "uint8", "stream")
        prepare = layout_func(
            stream, _expanded(work, inner, stream), target, packed.shape, packed.layout,
            packed.lanes,
        )  # fmt: skip
        return Kernel(
            name,
            scheduled(self, func, work, target, trace, name),
            prepare,
            packed.shape,
            packed.dtype,
            constants,
        )

    def _tiled(self, inner: ConvWork, target: Target) -> TiledFamily:
        found = self._family
        return found.part(inner, target) if isinstance(found, ByArchitecture) else found

    def _compute(
        self, work: CodebookWork, target: Target, weights: NDArray[np.generic]
    ) -> tuple[Any, tuple[NDArray[np.int32], ...]]:
        inner = indicator_work(work)
        family = self._tiled(inner, target)
        plan, packed = family.plan(inner, target), family.packed(inner, target)
        digits = family.digits(inner, target)
        correction = correct(inner, indicators(work, weights), *digits)
        constants = output.constants_of(correction, plan)
        with ir.function("main") as finished:
            x = ir.argument("x", *input_type(inner))
            w = ir.argument("weights", packed.shape, packed.dtype)
            static = tuple(
                ir.argument(f"constant_{i}", a.shape, "int32") for i, a in enumerate(constants)
            )
            args = declare(work)
            sums, window_sums = family.emit_sums(inner, target, x, w, correction)
            own = output.Arguments(static, (), ir.alloc(*epilogue.output_type(inner)))
            total = output.accumulators(inner, plan, correction, own, sums, window_sums)
            output.emit_output(inner, plan, total, own, pack_word_for(target), read_later=True)
            _emit_combine(work, target, own.out, args)
        return finished(), constants


def _expanded(work: CodebookWork, inner: ConvWork, stream: Any) -> Any:
    """Return the weights of the indicator convolution as a tensor expression."""
    conv, each = work.conv, channels_of_group(work)
    per_group = conv.out_channels // conv.groups
    indices = stream_indices(stream, conv.weight_shape, conv.w.bits)

    def one(channel: Any, i: Any, j: Any, c: Any) -> Any:
        group, place = tirx.floordiv(channel, each), tirx.floormod(channel, each)
        code = tirx.floordiv(place, per_group) + 1
        o = tirx.floormod(place, per_group)
        met = indices[group * per_group + o, i, j, c].astype("int32") == code
        met = tirx.any(met, place == each - 1)
        return tirx.Select(met, tirx.const(1, "uint8"), tirx.const(0, "uint8"))

    return te.compute(inner.weight_shape, one, name="ones")


def _emit_combine(work: CodebookWork, target: Target, sums: Any, args: Arguments) -> None:
    """Write the block ``combine``: from sums [N, OH, OW, indicator channels] to the result."""
    conv, each = work.conv, channels_of_group(work)
    per_group = conv.out_channels // conv.groups
    lanes = target.vector_bytes // 4
    if conv.groups > 1 or conv.out_channels % lanes:
        lanes = 1
    shape = (conv.batch, conv.out_height, conv.out_width, conv.out_channels // lanes)
    with ir.stage("combine", shape) as (n, h, w, block):
        at = ir.lanes_at(block * lanes, lanes)
        first, o = 0, block * lanes
        if conv.groups > 1:
            first = tirx.floordiv(block, per_group) * each
            o = tirx.floormod(block, per_group)
        ir.accesses(
            [sums[n, h, w, 0 : each * conv.groups], *map(ir.whole, (args.table, *args.parameters))],
            [args.out[n, h, w, block * lanes : block * lanes + lanes]],
        )

        def of(m: Any) -> Any:
            return sums[n, h, w, ir.lanes_at(first + (m - 1) * per_group + o, lanes)]

        rest = ir.splat(sums[n, h, w, first + each - 1], lanes)
        if work.values > 1:
            rest = rest - summed(work.values - 1, lambda m: of(m + 1), "int32", lanes)
        of_zero = ir.alloc((lanes,), "int32")
        ir.store(of_zero, rest, ir.lanes_at(0, lanes))

        def any_of(m: Any) -> Any:
            return of_zero[ir.lanes_at(0, lanes)] if isinstance(m, int) and m == 0 else of(m)

        def value(m: Any) -> Any:
            return args.table[m, at] if work.rows > 1 else ir.splat(args.table[m, 0], lanes)

        y = combined(work, any_of, value, lanes)
        parameters = tuple(p[at] for p in args.parameters)
        ir.store(args.out, stored_value(work, y, parameters, lanes), n, h, w, at)
