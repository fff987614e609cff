"""What the AArch64 kernels share: panels of activations, lane sums, tiles and their schedule.

Output pixels of all images form one row. A chunk of neighbouring pixels first gathers its windows
into a panel [pixels, planes, K], dense over taps and channels and filled up to whole 128-bit
vectors, which stays in the first cache; then each tile of ``rows`` pixels x 4 * ``blocks`` channels
holds its accumulators in registers while it walks along K. The lanes of an accumulator are partial
sums of one output; a tree of pairwise additions turns four accumulators into one vector of four
channels, on which the epilogue works while it still is in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.epilogue import has_result
from tvm_qnn.schedules.output import Sums
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.stages import tap, unflatten
from tvm_qnn.targets.record import Target

LANES = 4
"""Output channels in one register, int32."""

VECTOR_BITS = 128

IN_ORDER = "cortex-a53"
"""The processor that waits for results where the others run ahead."""

_MOST_BLOCKS = 5
_PANEL_BYTES = 16 * 1024
_UNROLLED_PANEL = 64
# Waking the other cores takes about as long as to copy so many pixels.
_PARALLEL_PIXELS = 1024


@dataclass(frozen=True)
class Tile:
    """The default tile of a kernel.

    Attributes:
        rows: pixels in registers.
        blocks: groups of four channels in registers.
        chunk: pixels of one panel, a multiple of ``rows``.
    """

    rows: int
    blocks: int
    chunk: int


@dataclass(frozen=True)
class Shape:
    """What a tile of ``rows`` pixels by ``blocks`` groups of four channels costs a step of K.

    Attributes:
        registers: vector registers for accumulators.
        ops: vector instructions of one pixel and one block.
        loads: loads of one block; a pixel takes one.
        per_block: accumulators of one pixel and one block.
    """

    registers: int
    ops: int
    loads: int
    per_block: int = 1

    def cost(self, rows: int, blocks: int) -> float:
        """Return the cycles of one pixel and one block: two operations or one load a cycle."""
        loads = (rows + blocks * self.loads) / (rows * blocks)
        # Among equal tiles the one that loads less leaves more slack.
        return max(self.ops / 2, loads) + loads / 8


def output_cycles(target: Target) -> float:
    """Return the cycles to reduce the accumulator of one output and to turn it into a code."""
    return 10 if target.cpu == IN_ORDER else 3


def output_plan(work: ConvWork, shape: Shape) -> Plan:
    """Return the loops over the result: one row of pixels, in the tiles that waste least."""
    width = work.batch * work.out_height * work.out_width
    granule = WORD // LANES if work.epilogue.pack else 1
    columns = ceil_div(work.out_channels, LANES * granule) * granule
    found: list[tuple[float, int, int]] = []
    for blocks in (b for b in range(1, _MOST_BLOCKS + 1) if columns % b == 0):
        for rows in range(1, min(width, shape.registers // (blocks * shape.per_block)) + 1):
            stored = ceil_div(width, rows) * rows
            found.append((stored * shape.cost(rows, blocks), rows, blocks))
    _, rows, blocks = min(found)
    return Plan(
        lanes=LANES,
        rows=rows,
        blocks=blocks,
        flat=True,
        batch=1,
        height=1,
        width=width,
        width_stored=ceil_div(width, rows) * rows,
        columns=columns,
        weights_outer=False,
    )


def input_plan(work: ConvWork) -> Plan:
    """Return the loops over the padded activations, without spare columns."""
    return Plan(
        lanes=LANES,
        rows=1,
        blocks=1,
        flat=False,
        batch=work.batch,
        height=work.out_height,
        width=work.out_width,
        width_stored=work.out_width,
        columns=1,
        weights_outer=False,
    )


def default_tile(plan: Plan, target: Target, pixel_bytes: int) -> Tile:
    """Choose chunks whose panel fits the first cache and that occupy all cores.

    Args:
        plan: the loops over the result.
        target: tells the number of cores.
        pixel_bytes: panel bytes of one pixel.
    """
    tiles = plan.width_stored // plan.rows
    wanted = max(1, _PANEL_BYTES // (plan.rows * pixel_bytes))
    if tiles >= target.cores:
        wanted = min(wanted, tiles // target.cores)
    size = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= wanted)
    return Tile(plan.rows, plan.blocks, size * plan.rows)


def emit_panel(
    source: Any, work: ConvWork, plan: Plan, planes: int | None, steps: int, dtype: str
) -> Any:
    """Write block ``panel``: gather windows, [pixels, planes, steps * elements of a vector].

    Elements beyond the window repeat its last ones; the weights are 0 there.

    Args:
        source: padded activations [N, H, W, planes, E], or [N, H, W, E] where ``planes`` is None.
        work: the convolution.
        plan: the loops over the result.
        planes: bit planes of the activations.
        steps: vectors along K.
        dtype: of the elements.
    """
    per_vector = VECTOR_BITS // int(dtype.lstrip("uint"))
    elements = int(source.shape[-1])
    window = work.kernel[0] * work.kernel[1] * elements
    # Neighbours that stay neighbours.
    granule = math.gcd(elements, per_vector)
    shape = (plan.width_stored, planes or 1, steps * per_vector)
    panel = ir.alloc(shape, dtype)
    with ir.stage("panel", (*shape[:2], steps)) as (p, a, k):
        # Spare pixels of the last tile gather the last window once more.
        last = tirx.min(p, plan.width - 1) if plan.width_stored != plan.width else p
        n, h, w = unflatten(plan, work.out_height, work.out_width, 0, 0, last)

        for first in range(0, per_vector, granule):
            element = tirx.min(k * per_vector + first, window - granule)
            position = tirx.floordiv(element, elements)
            i, j = tirx.floordiv(position, work.kernel[1]), tirx.floormod(position, work.kernel[1])
            row, column = tap(work, h, w, i, j)
            plane = () if planes is None else (a,)
            inner = ir.lanes_at(tirx.floormod(element, elements), granule)
            at = ir.lanes_at(k * per_vector + first, granule)
            ir.store(panel, source[(n, row, column, *plane, inner)], p, a, at)
    return panel


def pairwise_tree(vectors: Sequence[Any], dtype: str) -> Any:
    """Sum the lanes of four int32x4 vectors into the four lanes of one."""

    def add(a: Any, b: Any) -> Any:
        return ir.intrinsic(f"{dtype}x4", "llvm.aarch64.neon.addp.v4i32", a, b)

    return add(add(vectors[0], vectors[1]), add(vectors[2], vectors[3]))


def emit_reduce(plan: Plan, chunks: int, quad: Callable[[Any, Any, Any], Any]) -> Sums:
    """Write block ``reduce``: add the lanes of accumulators; return the sums of digit products.

    Args:
        plan: the loops over the result.
        chunks: pieces of K whose sums are added.
        quad: from (pixel, block, piece) to int32x4, the sums of four channels.
    """
    sums = ir.alloc((plan.width_stored, plan.channels), "int32")
    with ir.stage("reduce", (plan.width_stored, plan.columns), (chunks,)) as (p, block, piece):
        at = ir.lanes_at(block * LANES, LANES)
        with ir.init():
            ir.store(sums, ir.const(0, "int32", LANES), p, at)
        ir.store(sums, sums[p, at] + quad(p, block, piece), p, at)
    return lambda n, h, w, block: sums[w, ir.lanes_at(block * LANES, LANES)]


@dataclass(frozen=True)
class Nest:
    """Where the blocks of a tile go.

    Attributes:
        chunk: the loop over panels.
        tile: the innermost loop around a tile.
        depth: loops down to and including ``tile``.
    """

    chunk: Any
    tile: Any
    depth: int


def split(sch: Any, loop: Any, inner: Sequence[int], largest: int) -> list[Any]:
    """Split a loop by sampled factors whose defaults are ``inner``, outer ones first."""
    extent = int(sch.get(loop).extent)
    decision = [extent // math.prod(inner), *inner]
    factors = sch.sample_perfect_tile(
        loop, n=len(decision), max_innermost_factor=largest, decision=decision
    )
    return list(sch.split(loop, factors))


def schedule_tiles(sch: Any, work: ConvWork, plan: Plan, tile: Tile, reduced: bool = True) -> Nest:
    """Tile ``out`` (or ``result``, when words of 32 channels are packed) and draw the tile's size.

    Args:
        sch: schedule of a kernel with blocks ``panel``, ``reduce``, maybe ``result``, and ``out``.
        work: the convolution.
        plan: its loops.
        tile: the default tile.
        reduced: there is a block ``reduce``; it is placed here.

    Returns:
        the loops under which the blocks before are to be computed.
    """
    out = sch.get_sblock("out")
    n, h, w, c = sch.get_loops(out)
    shape = [tile.chunk // tile.rows, tile.rows]
    if work.epilogue.pack:
        (chunk, inside) = split(sch, w, [tile.chunk], 1 << 16)
        sch.reorder(chunk, n, h, inside, c)
        lead = sch.get_sblock("result")
        sch.compute_at(lead, chunk, preserve_unit_loops=True)
        _, _, inside, c = sch.get_loops(lead)[1:]
        middle, rows = split(sch, inside, shape[1:], 6)
        outer, blocks = split(sch, c, [tile.blocks], 4)
        sch.reorder(outer, middle, rows, blocks)
    else:
        chunk, middle, rows = split(sch, w, shape, 6)
        outer, blocks = split(sch, c, [tile.blocks], 4)
        sch.reorder(chunk, n, h, outer, middle, rows, blocks)
        if has_result(work, plan):
            result = sch.get_sblock("result")
            sch.compute_at(result, middle, preserve_unit_loops=True)
            unroll(sch, sch.get_loops(result)[-2:])
        lead = out
    # Before any reduction is decomposed: afterwards the primitive no longer sees that it is safe.
    sch.parallel(chunk if int(sch.get(chunk).extent) > 1 else outer)
    unroll(sch, [rows, blocks])
    depth = len(sch.get_loops(lead)) - 2
    if not reduced:
        return Nest(chunk, middle, depth)
    reduce = sch.get_sblock("reduce")
    sch.compute_at(reduce, middle, preserve_unit_loops=True)
    pixel, block, piece = sch.get_loops(reduce)[depth:]
    sch.reorder(piece, pixel, block)
    init = sch.decompose_reduction(reduce, piece)
    unroll(sch, sch.get_loops(init)[depth:])
    unroll(sch, [pixel, block])
    return Nest(chunk, piece, depth + 1)


def schedule_panel(sch: Any, nest: Nest) -> None:
    """Gather the panel once for each chunk; short panels without any address arithmetic."""
    panel = sch.get_sblock("panel")
    consumers = [sch.get(b).name_hint for b in sch.get_consumers(panel)]
    if "window_sum" in consumers:
        sch.compute_at(sch.get_sblock("window_sum"), nest.chunk, preserve_unit_loops=True)
    parallel_sources(sch, panel)
    sch.compute_at(panel, nest.chunk, preserve_unit_loops=True)
    steps = sch.get_loops(panel)[-1]
    if int(sch.get(steps).extent) <= _UNROLLED_PANEL:
        sch.unroll(steps)


def parallel_sources(sch: Any, block: Any) -> None:
    """Spread the blocks that pad and pack large activations, rows of all images, over the cores."""
    for source in sch.get_producers(block):
        parallel_sources(sch, source)
        image, row, *inner = sch.get_loops(source)
        pixels = math.prod(int(sch.get(loop).extent) for loop in (image, row, *inner))
        if pixels >= _PARALLEL_PIXELS:
            sch.parallel(sch.fuse(image, row))


def unroll(sch: Any, loops: Sequence[Any]) -> None:
    """Unroll loops."""
    for loop in loops:
        sch.unroll(loop)
