"""What the kernels for CUDA share: the pixels of a convolution as rows, and blocks on threads.

A convolution is a matrix product of image rows, one for each output pixel with all the taps that it
reads, and weights. No such matrix is stored: the block ``image`` says what an element of it is, and
schedules place it where a thread block copies its part to shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.plan import Plan, ceil_div

THREADS = 128
"""Of a block, for kernels that wait for memory and do little else."""
VECTOR = 4
"""Words that a thread copies at once."""
Threads = Sequence[tuple[str, Any]]
"""Names of thread axes and their extents."""
_PARAMETERS = ("flips", "levels", "mul_filled", "add_filled")


def rows_of(work: ConvWork) -> int:
    """Return the output pixels of all images."""
    return work.batch * work.out_height * work.out_width


def make_plan(work: ConvWork, rows: int, channels: int, tile_rows: int, tile_channels: int) -> Plan:
    """Return the loops of a kernel whose blocks compute ``rows`` pixels times ``channels``.

    Args:
        work: the convolution.
        rows: of a block.
        channels: of a block.
        tile_rows: of a thread.
        tile_channels: of a thread.
    """
    count = rows_of(work)
    return Plan(
        lanes=1,
        rows=tile_rows,
        blocks=tile_channels,
        flat=True,
        batch=1,
        height=1,
        width=count,
        width_stored=ceil_div(count, rows) * rows,
        columns=ceil_div(work.out_channels, channels) * channels,
        weights_outer=False,
    )


def source(
    work: ConvWork, plan: Plan, row: Any, i: Any, j: Any
) -> tuple[tuple[Any, Any, Any], Any]:
    """Return the position that tap (i, j) of an image row reads, and whether it is inside.

    The condition is None where all taps of all pixels are inside. Rows beyond the last pixel read
    what the last one does.
    """
    if plan.width_stored != plan.width:
        row = tirx.min(row, plan.width - 1)
    n = tirx.floordiv(row, work.out_height * work.out_width)
    h = tirx.floormod(tirx.floordiv(row, work.out_width), work.out_height) * work.strides[0]
    w = tirx.floormod(row, work.out_width) * work.strides[1]
    if work.kernel != (1, 1):
        h, w = h + i * work.dilation[0], w + j * work.dilation[1]
    if not any(work.padding):
        return (n, h, w), None
    h, w = h - work.padding[0], w - work.padding[1]
    return (n, h, w), tirx.all(h >= 0, h < work.height, w >= 0, w < work.width)


def nearest(work: ConvWork, place: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Return the position of the image that is nearest to one which may be outside."""
    n, h, w = place
    return (
        n,
        tirx.max(tirx.min(h, work.height - 1), 0),
        tirx.max(tirx.min(w, work.width - 1), 0),
    )


def copy_or_clear(
    source: Any, place: Sequence[Any], target: Any, at: Sequence[Any], count: int, inside: Any
) -> None:
    """Copy words to shared memory by ``cp.async``, or zeros, in the open block.

    TVM makes such copies of plain ones, but not of vectors that are there on a condition.

    Args:
        source: uint32 in global memory.
        place: of the first word.
        target: uint32 in shared memory.
        at: of its first word.
        count: 1, 2 or 4 neighbours.
        inside: the condition.
    """
    written = target[(*at[:-1], slice(at[-1], at[-1] + count))]
    T.reads(source[(*place[:-1], slice(place[-1], place[-1] + count))])
    T.writes(written)
    to = T.match_buffer(written, (count,), "uint32", scope="shared", offset_factor=count)
    start = tirx.address_of(source[tuple(place)])
    # TVM mistakes a cast of the condition for a constant.
    condition = tirx.if_then_else(inside, tirx.const(1, "int32"), tirx.const(0, "int32"))
    arguments = [to.access_ptr("w"), 0, start, 0, 4 * count, condition]
    T.evaluate(tirx.call_intrin("uint32", "tirx.s_tir.cp_async_raw", *arguments))


def inside_or(inside: Any, value: Any, other: Any) -> Any:
    """Return ``value``, or ``other`` where the condition of :func:`source` does not hold."""
    return value if inside is None else tirx.if_then_else(inside, value, other)


def sum_windows(
    work: ConvWork, plan: Plan, pixel_sum: Callable[..., Any], extents: Sequence[int], outside: int
) -> Any:
    """Sum the digits under the kernel at each output pixel: int32 [1, 1, rows, groups].

    Args:
        work: the convolution.
        plan: its loops.
        pixel_sum: from (n, h, w, group, *reduction variables) of a position to a term.
        extents: extents of the reduction variables.
        outside: sum of a tap outside of the image.
    """
    totals = ir.alloc((work.batch, work.height, work.width, work.groups), "int32")
    with ir.stage("pixel_sum", totals.shape, extents) as (n, h, w, g, *k):
        with ir.init():
            ir.store(totals, tirx.const(0, "int32"), n, h, w, g)
        ir.store(totals, totals[n, h, w, g] + pixel_sum(n, h, w, g, *k), n, h, w, g)
    sums = ir.alloc((1, 1, plan.width_stored, work.groups), "int32")
    with ir.stage("window_sum", (plan.width_stored, work.groups), work.kernel) as (row, g, i, j):
        with ir.init():
            ir.store(sums, tirx.const(0, "int32"), 0, 0, row, g)
        place, inside = source(work, plan, row, i, j)
        term = inside_or(inside, totals[(*place, g)], tirx.const(outside, "int32"))
        ir.store(sums, sums[0, 0, row, g] + term, 0, 0, row, g)
    return sums


def bind(sch: Any, block: Any) -> None:
    """Give every element of what a block writes a thread; reductions stay loops of the thread."""
    loops = sch.get_loops(block)
    kinds = [var.iter_type for var in sch.get(block).iter_vars]
    spatial = [
        loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar
    ] or [sch.add_unit_loop(block)]
    fused = sch.fuse(*spatial)
    # The copy of a sum would be stored without asking whether there is such an element.
    whole = int(sch.get(fused).extent) % THREADS == 0
    reduces = len(spatial) < len(loops)
    outer, inner = sch.split(fused, [None, THREADS])
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    if reduces and whole:
        sums = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(sums, inner, preserve_unit_loops=True)


def bind_rest(sch: Any) -> None:
    """Bind all blocks that stand for themselves; each becomes a launch of its own.

    Parameters of the epilogue are worked out where they are read.
    """
    parameters = []
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if str(sch.get(block).name_hint) in _PARAMETERS:
            parameters.append(block)
        elif all(sch.get(loop).thread_binding is None for loop in sch.get_loops(block)):
            bind(sch, block)
    # Last: with a counter of thresholds in it, the block that they go into can no longer be bound.
    for block in parameters:
        sch.compute_inline(block)


def cache_read(sch: Any, block: Any, buffer: str, scope: str) -> Any:
    """Let a block read a buffer, given by its name, from a copy."""
    names = [str(region.source.name) for region in sch.get(block).reads]
    return sch.cache_read(block, names.index(buffer), scope)


def has_block(sch: Any, name: str) -> bool:
    """Tell whether a kernel has a block of that name."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    return any(str(sch.get(block).name_hint) == name for block in blocks)


def share(sch: Any, loops: Sequence[Any], threads: Threads, lanes: int = 1) -> Any:
    """Share the elements of loops among threads, neighbours among lanes; returns the last's loop.

    Args:
        sch: schedule.
        loops: neighbours in a nest.
        threads: names of thread axes and their extents.
        lanes: neighbours that one thread takes at once; they divide the innermost loop.
    """
    vector = [lanes] if lanes > 1 else []
    fused = sch.fuse(*loops)
    _, *bound = sch.split(fused, [None, *(extent for _, extent in threads), *vector])
    if vector:
        sch.vectorize(bound.pop())
    for loop, (axis, _) in zip(bound, threads, strict=True):
        sch.bind(loop, axis)
    return bound[-1]


def copy_operands(sch: Any, reader: Any, at: Any, threads: Threads) -> tuple[Any, Any]:
    """Let the threads of a block copy what it reads of image and weights to shared memory.

    Args:
        sch: schedule.
        reader: the block that multiplies.
        at: loop of the reduction in which a part is copied.
        threads: names of thread axes and their extents.

    Returns:
        the blocks that copy the image and the weights.
    """
    image = sch.get_sblock("image")
    # First the scope: what a block shares is copied for all of its threads.
    sch.set_scope(image, 0, "shared")
    weights = cache_read(sch, reader, "weights", "shared")
    # An element of the image is a vector by itself.
    for block, lanes in ((image, 1), (weights, VECTOR)):
        sch.compute_at(block, at, preserve_unit_loops=True)
        tile = sch.get_loops(block)[-len(sch.get(block).iter_vars) :]
        share(sch, tile, threads, lanes)
    return image, weights
