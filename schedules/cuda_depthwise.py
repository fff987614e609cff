"""Depthwise convolutions of the family ``dot`` on a GPU: one product for each tap, in registers.

A thread has the sums of a group of neighbouring channels, four where their number allows, of some
neighbouring output pixels. It reads the four codes of a pixel as one word, and its neighbours read
the words beside it. For each kernel row it reads what its pixels see of the image once. Digits of
activations are their codes, whatever these are, so that nothing is converted and padding is a
condition. Weights are packed [KH, KW, C / group, group].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, cuda_code, ir, stages, tiling
from tvm_qnn.schedules.algebra import Correction, Digits, fitting_digits, index_digits, value_digits
from tvm_qnn.schedules.cuda_depthwise_tile import (
    DEEPEST,
    across_of,
    group_of,
    rows_of,
    threads_of,
)
from tvm_qnn.schedules.cuda_gemm import LAUNCH
from tvm_qnn.schedules.epilogue import has_result, output_type
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.prepare import weight_digit
from tvm_qnn.schedules.tiled import EPILOGUE_CYCLES, Packed, TiledFamily
from tvm_qnn.targets.record import Target

_LARGEST_TILE = 8
_MOST_WORDS = 16
_MOST_UNROLLED = 25
"""Taps; of larger kernels the rows stay a loop."""
_MOST_TAPS = 16
"""Of a kernel row whose pixels are in registers at once."""


class CudaDepthwise(TiledFamily):
    """Convolutions with one input channel for each output channel."""

    name = "dot"

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if not work.depthwise:
            return Refusal(self.name, "not depthwise")
        if work.x_planes:
            return Refusal(self.name, "activations come as bit planes", "hand over codes")
        return None

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        assert target.gpu is not None
        plan = self.plan(work, target)
        outputs = plan.batch * plan.height * plan.width_stored * plan.channels
        taps = work.kernel[0] * work.kernel[1] * _parts(work)
        computed = outputs * (taps + EPILOGUE_CYCLES) / target.rates.reference
        shape, dtype = output_type(work)
        moved = work.batch * work.height * work.width * work.in_channels * _size(work.x.dtype)
        written = _size(dtype)
        for extent in shape:
            written *= extent
        waited = (moved + written) / target.gpu.bandwidth
        return max(computed / target.gpu.processors, waited) + LAUNCH

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """Store activation codes as they are, and values of weights, which need no sums of these.

        Where zero points differ, these are too many to be constants: indices, which fit bytes.
        """
        x = Digits(work.x, work.x.step, work.x.lo, 1, (-work.x_zero,))
        if _parts(work) == 1:
            return x, value_digits(work.w, work.w_zero[0])
        w = fitting_digits(work.w, work.w_zero, -128, 127)
        return x, w or index_digits(work.w, work.w_zero)

    def plan(self, work: ConvWork, target: Target) -> Plan:
        """See :class:`TiledFamily`."""
        group = group_of(work)
        granule = WORD if work.epilogue.pack else group
        channels = across_of(work) * group
        columns = ceil_div(work.out_channels, channels) * channels
        rows = rows_of(work, target)
        return Plan(
            lanes=1,
            rows=rows,
            blocks=granule,
            flat=False,
            batch=work.batch,
            height=work.out_height,
            width=work.out_width,
            width_stored=ceil_div(work.out_width, rows) * rows,
            columns=columns,
            weights_outer=False,
        )

    def packed(self, work: ConvWork, target: Target) -> Packed:
        """See :class:`TiledFamily`."""
        digits, group = self.digits(work, target)[1], group_of(work)
        dtype = "int32"
        for small, bits in (("int16", 16), ("int8", 8)):
            if digits.lo >= -(2 ** (bits - 1)) and digits.hi < 2 ** (bits - 1):
                dtype = small
        groups = self.plan(work, target).columns // group

        def layout(indices: Any) -> Callable[..., Any]:
            return lambda i, j, o, lane: weight_digit(
                indices, digits, dtype, o * group + lane, i, j, tirx.const(0, "int32")
            )

        return Packed((*work.kernel, groups, group), dtype, layout)

    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """See :class:`TiledFamily`.

        Sums of digits of activations, where needed, are sums of products with 1.
        """
        plan, group, parts = self.plan(work, target), group_of(work), _parts(work)
        image, digit = _emit_image(work, plan, x, correction.fill)
        pixels = (plan.batch, plan.height, plan.width_stored)
        acc = ir.alloc((*pixels, plan.columns // group, group, parts), "int32")
        with ir.stage("acc", acc.shape, work.kernel) as (n, h, v, o, lane, part, i, j):
            with ir.init():
                ir.store(acc, tirx.const(0, "int32"), n, h, v, o, lane, part)
            read = digit(image[(n, *stages.tap(work, h, v, i, j), o)], lane)
            weight = ir.cast(w[i, j, o, lane], "int32")
            if parts > 1:
                weight = tirx.Select(part == 0, weight, tirx.const(1, "int32"))
            updated = acc[n, h, v, o, lane, part] + read * weight
            ir.store(acc, updated, n, h, v, o, lane, part)

        def total(part: int) -> Sums:
            return lambda n, h, v, o: acc[
                n, h, v, tirx.floordiv(o, group), tirx.floormod(o, group), part
            ]

        window_sums = None
        if parts > 1:
            window_sums = ir.alloc((*pixels, plan.columns), "int32")
            with ir.stage("window_sum", window_sums.shape) as (n, h, v, o):
                ir.store(window_sums, total(1)(n, h, v, o), n, h, v, o)
        return total(0), window_sums

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`TiledFamily`.

        Sampled are the threads of a block, the pixels of a thread, and the taps of a kernel row
        that it reads at once.
        """
        if cuda.has_block(sch, "window_sum"):
            sch.compute_inline(sch.get_sblock("window_sum"))
        plan = self.plan(work, target)
        at = _tile_words(sch, work, plan) if work.epilogue.pack else _tile(sch, work, plan)
        acc = sch.get_sblock("acc")
        sch.set_scope(acc, 0, "local")
        sch.compute_at(acc, at, preserve_unit_loops=True)
        *_, pixels, channels, lane, part, down, right = sch.get_loops(acc)
        most = max(d for d in range(1, _MOST_TAPS + 1) if work.kernel[1] % d == 0)
        (outer, taps), _ = tiling.sample(sch, right, [work.kernel[1] // most, most], _MOST_TAPS)
        sch.reorder(down, outer, taps, pixels, channels, lane, part)
        image = sch.get_sblock("image")
        sch.set_scope(image, 0, "local")
        weights = cuda.cache_read(sch, acc, "weights", "local")
        for block in (image, weights):
            sch.compute_at(block, outer, preserve_unit_loops=True)
        *_, column, _ = sch.get_loops(image)
        *_, tap, _, vector = sch.get_loops(weights)
        sch.vectorize(vector)
        unrolled = [column, tap, taps, pixels, channels, lane, part]
        if work.kernel[0] * work.kernel[1] <= _MOST_UNROLLED:
            unrolled += [down, outer]
        for loop in unrolled:
            sch.unroll(loop)
        clear = sch.decompose_reduction(acc, down)
        for loop in sch.get_loops(clear)[-4:]:
            sch.unroll(loop)
        cuda.bind_rest(sch)


def _tile(sch: Any, work: ConvWork, plan: Plan) -> Any:
    """Give the threads of a block neighbours in rows, columns and channels."""
    down, right, across = threads_of(work, plan)
    n, h, w, c = sch.get_loops(sch.get_sblock("out"))
    groups, lane = sch.split(c, [None, group_of(work)])
    count, tiles = int(sch.get(groups).extent), plan.width_stored // plan.rows
    (h0, h1), _ = tiling.sample(sch, h, [plan.height // down, down], DEEPEST)
    (w0, w1, w2), _ = tiling.sample(sch, w, [tiles // right, right, plan.rows], _LARGEST_TILE)
    (c0, c1), _ = tiling.sample(sch, groups, [count // across, across], cuda.THREADS)
    sch.reorder(n, h0, w0, c0, h1, w1, c1, w2, lane)
    sch.bind(sch.fuse(n, h0, w0), "blockIdx.x")
    sch.bind(c0, "blockIdx.y")
    for loop, axis in zip((h1, w1, c1), "zyx", strict=True):
        sch.bind(loop, f"threadIdx.{axis}")
    for loop in (w2, lane):
        sch.unroll(loop)
    if has_result(work, plan):
        result = sch.get_sblock("result")
        sch.set_scope(result, 0, "local")
        sch.compute_at(result, c1, preserve_unit_loops=True)
        return c1
    if group_of(work) > 1:
        _copy_parameters(sch, c1)
    if group_of(work) > 1 and plan.width_stored == plan.width:
        # Neighbours are stored at once. Whole tiles only: the copy knows no conditions.
        stored = sch.cache_write(sch.get_sblock("out"), 0, "local")
        sch.reverse_compute_at(stored, c1, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(stored)[-1])
    return c1


def _copy_parameters(sch: Any, at: Any) -> None:
    """Read at once what the block ``out`` reads of the channels of a thread."""
    out = sch.get_sblock("out")
    block = sch.get(out)
    channel = block.iter_vars[-1].var
    for region in block.reads:
        if len(region.region) == 1 and region.region[0].min.same_as(channel):
            copied = cuda.cache_read(sch, out, str(region.source.name), "local")
            sch.compute_at(copied, at, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(copied)[-1])


def _tile_words(sch: Any, work: ConvWork, plan: Plan) -> Any:
    """Let a block share codes, which any thread packs to words, of neighbours in a row."""
    _, right, across = threads_of(work, plan)
    n, h, w, c = sch.get_loops(sch.get_sblock("out"))
    lanes, tiles = WORD // group_of(work), plan.width_stored // plan.rows
    words, count = across // lanes, int(sch.get(c).extent)
    (w0, w1, w2), (_, right, pixels) = tiling.sample(
        sch, w, [tiles // right, right, plan.rows], _LARGEST_TILE
    )
    (c0, c1), (_, words) = tiling.sample(sch, c, [count // words, words], _MOST_WORDS)
    sch.reorder(n, h, w0, c0, w1, w2, c1)
    sch.bind(sch.fuse(n, h, w0), "blockIdx.x")
    sch.bind(c0, "blockIdx.y")
    result = sch.get_sblock("result")
    sch.set_scope(result, 0, "shared")
    sch.compute_at(result, c0, preserve_unit_loops=True)
    row, channels = sch.get_loops(result)[-2:]
    z, pixel = sch.split(row, [None, pixels])
    y, x, lane = sch.split(channels, [None, lanes, group_of(work)])
    sch.reorder(z, y, x, pixel, lane)
    for loop, axis in zip((z, y, x), "zyx", strict=True):
        sch.bind(loop, f"threadIdx.{axis}")
    threads = [("threadIdx.z", right), ("threadIdx.y", words), ("threadIdx.x", lanes)]
    cuda.share(sch, [w1, w2, c1], threads)
    return x


def _emit_image(work: ConvWork, plan: Plan, x: Any, fill: int) -> tuple[Any, Callable[..., Any]]:
    """Write the block ``image``, the padded codes, a group of channels an element.

    Returns:
        the buffer [N, rows, columns, groups], and from an element and a channel of it to the digit.
    """
    group = group_of(work)
    groups, count = plan.columns // group, work.in_channels // group
    dtype = "uint32" if group > 1 else "int32"
    image = ir.named("image", ir.alloc((*stages.input_shape(work, plan), groups), dtype))
    outside = tirx.const(fill % 256 * 0x01010101 if group > 1 else fill, dtype)
    with ir.stage("image", image.shape) as (n, h, w, o):
        place, inside = stages.padded_source(work, plan, n, h, w)
        first = (o if groups == count else tirx.min(o, count - 1)) * group
        read = x[(*place, ir.lanes_at(first, group))]
        value = tirx.reinterpret(dtype, read) if group > 1 else ir.cast(read, dtype)
        if stages.needs_padding(work, plan):
            value = tirx.if_then_else(inside, value, outside)
        ir.store(image, value, n, h, w, o)

    def digit(element: Any, lane: Any) -> Any:
        if group == 1:
            return element
        return cuda_code.byte_of(element, lane, signed=work.x.dtype == "int8")

    return image, digit


def _parts(work: ConvWork) -> int:
    """Return the sums of an output: the one of products, and of activations if zeros differ."""
    return 1 if len(set(work.w_zero)) == 1 else 2


def _size(dtype: str) -> int:
    """Return the bytes of an element."""
    return np.dtype(dtype).itemsize
