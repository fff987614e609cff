"""How the warps of a thread block share a tile of sums, and put their parts on tensor cores."""

from __future__ import annotations

import math
from typing import Any

from tvm_qnn.schedules import cuda, cuda_fragments, tiling
from tvm_qnn.schedules.cuda_fragments import DEPTH, TILE, WARP
from tvm_qnn.schedules.cuda_unpack import Unpacking

_WARPS = (2, 2)
"""Down and across, without tuning."""
_UNROLLED = 1024
"""Statements of the body of an unrolled loop at most."""
_SKEW = 4
"""Words between rows in shared memory, so that eight rows lie in all banks."""


def multiply(
    sch: Any, acc: Any, kind: str, unpacking: Unpacking | None, together: int
) -> cuda.Threads:
    """Schedule the block ``acc``, which has the tile of a thread block.

    Sampled are how warps share the tile and how many fragments are copied at a time.

    Args:
        sch: schedule of a kernel with blocks ``image``, ``acc`` and maybe ``unpacked``.
        acc: the block over (row, column, step).
        kind: what words hold.
        unpacking: how stored weights become words, None if they are.
        together: words that are copied at once, without tuning.

    Returns:
        the threads of a block.
    """
    *_, i, j, k = sch.get_loops(acc)
    (i, i3), (j, j3), (k, k3) = (
        sch.split(loop, [None, size]) for loop, size in ((i, TILE), (j, TILE), (k, DEPTH))
    )
    sch.reorder(i, j, k, i3, j3, k3)
    tile = sch.blockize(i3)
    shared = []
    for loop, most in zip((i, j), _WARPS, strict=True):
        count = int(sch.get(loop).extent)
        warps = math.gcd(count, most)
        shared.append(tiling.sample(sch, loop, [warps, count // warps], 8))
    ((i1, i2), (down, _)), ((j1, j2), (across, _)) = shared
    sets = 1 if unpacking is None else unpacking.sets
    k, k2 = sch.split(k, [None, sets])
    count, fit = int(sch.get(k).extent), max(1, together // DEPTH // sets)
    most = max(d for d in range(1, fit + 1) if count % d == 0)
    (k0, k1), _ = tiling.sample(sch, k, [count // most, most], 8)
    sch.reorder(i1, j1, k0, k1, k2, i2, j2)
    sch.bind(i1, "threadIdx.z")
    sch.bind(j1, "threadIdx.y")
    threads = [("threadIdx.z", down), ("threadIdx.y", across), ("threadIdx.x", WARP)]
    rows, columns = _operands(sch, tile, (k0, k1, k2), threads, unpacked=unpacking is not None)
    sums = sch.cache_write(tile, 0, "warp")
    sch.reverse_compute_at(sums, j1, preserve_unit_loops=True)
    row_load, _ = _fragments(sch, rows, DEPTH)
    sums_store, sums_outer = _fragments(sch, sums, TILE)
    clear = sch.decompose_reduction(tile, k0)
    # The next operands are copied meanwhile (cp.async): image and weights, then the products.
    sch.annotate(k0, "software_pipeline_stage", [0, 0, 1])
    sch.annotate(k0, "software_pipeline_order", [0, 1, 2])
    sch.annotate(k0, "software_pipeline_async_stages", [0])
    # Fragments are registers only where every index is known. The compiler of CUDA unrolls; TVM
    # would lose sight of what belongs to a lane.
    for loop in (k1, sums_outer, sch.get_loops(clear)[-2]):
        sch.annotate(loop, "pragma_auto_unroll_max_step", _UNROLLED)
        sch.annotate(loop, "pragma_unroll_explicit", 0)
    sch.transform_layout(
        rows, ("write", 0),
        lambda i, k: (i // TILE, k // DEPTH, *cuda_fragments.row_fragment(i % TILE, k % DEPTH)),
    )  # fmt: skip
    sch.transform_layout(
        sums, ("read", 0),
        lambda i, j: (i // TILE, j // TILE, *cuda_fragments.sum_fragment(i % TILE, j % TILE)),
    )  # fmt: skip
    sch.tensorize(row_load, cuda_fragments.load_rows())
    _load_columns(sch, columns, unpacking)
    sch.tensorize(sch.get_loops(acc)[-3], cuda_fragments.multiply(kind))
    cleared = sch.get_child_blocks(clear)[0]
    sch.tensorize(sch.get_loops(cleared)[-2], cuda_fragments.clear())
    sch.tensorize(sums_store, cuda_fragments.store())
    return threads


def _operands(
    sch: Any, tile: Any, loops: tuple[Any, Any, Any], threads: cuda.Threads, *, unpacked: bool
) -> tuple[Any, Any]:
    """Copy operands to shared memory and from there to registers; returns the last blocks."""
    k0, k1, k2 = loops
    columns, reader = None, tile
    if unpacked:
        columns = reader = sch.get_sblock("unpacked")
        sch.set_scope(columns, 0, "warp")
        sch.compute_at(columns, k1, preserve_unit_loops=True)
    image, weights = cuda.copy_operands(sch, reader, k0, threads)
    sch.storage_align(image, 0, axis=-2, factor=8, offset=_SKEW)

    def load(block: Any) -> Any:
        buffer = str(sch.get(block).writes[0].source.name)
        loaded = cuda.cache_read(sch, tile, buffer, "warp")
        sch.compute_at(loaded, k2, preserve_unit_loops=True)
        return loaded

    return load(image), columns or load(weights)


def _fragments(sch: Any, block: Any, width: int) -> tuple[Any, Any]:
    """Split the loops of a block into fragments; returns the first in one, and the outermost."""
    a, b = sch.get_loops(block)[-2:]
    a0, a1 = sch.split(a, [None, TILE])
    b0, b1 = sch.split(b, [None, width])
    sch.reorder(a0, b0, a1, b1)
    return a1, a0


def _load_columns(sch: Any, columns: Any, unpacking: Unpacking | None) -> None:
    """Load column fragments, or all that stored ones become."""
    if unpacking is None:
        sch.transform_layout(
            columns, ("write", 0),
            lambda j, k, r, e: (j, k, *cuda_fragments.stored_fragment(r, e)),
        )  # fmt: skip
        sch.tensorize(sch.get_loops(columns)[-2], cuda_fragments.load_columns())
        return
    sch.transform_layout(
        columns, ("write", 0),
        lambda j, k, p, r, e: (j, k, p, *cuda_fragments.stored_fragment(r, e)),
    )  # fmt: skip
    sch.tensorize(sch.get_loops(columns)[-3], cuda_fragments.unpack_columns(unpacking))
