"""How the output of a convolution is cut into tiles of registers, and the loops of its kernels.

All families of fast CPU kernels share one shape: an outer product. A tile holds the accumulators of
``rows`` neighbouring output pixels times ``blocks`` vectors of ``lanes`` output channels in
registers; each step of the reduction loads ``blocks`` vectors of weights, broadcasts ``rows`` words
of activations and updates all accumulators.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_qnn.ops.workload import ConvWork

WORD = 32
"""Bits of one packed word of output codes."""

_RAGGED_COST = 1.05
"""Tiles that do not divide make padded copies of activations or results necessary."""

_STACK_BYTES = 1024
"""TVM keeps smaller buffers on the stack, from where LLVM takes them into registers."""


@dataclass(frozen=True)
class Plan:
    """The loops of a kernel and its default tile.

    Attributes:
        lanes: output channels in one register.
        rows: output pixels in a tile.
        blocks: registers of channels in a tile.
        flat: the kernel is 1x1 with stride 1 and no padding, so that all pixels of all images form
            one row.
        batch: images, 1 if flat.
        height: output rows, 1 if flat.
        width: output pixels in a row.
        width_stored: ``width`` rounded up to whole tiles.
        columns: registers of channels in all; the last ones may be padding.
        weights_outer: the loop over channels is the outermost, which reads weights once.
    """

    lanes: int
    rows: int
    blocks: int
    flat: bool
    batch: int
    height: int
    width: int
    width_stored: int
    columns: int
    weights_outer: bool

    @property
    def channels(self) -> int:
        """Output channels, padding included."""
        return self.columns * self.lanes


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    return -(-a // b)


def flattens(work: ConvWork) -> bool:
    """Tell whether output pixels are input pixels, so that rows and images can be fused."""
    return work.kernel == (1, 1) and work.strides == (1, 1) and not any(work.padding)


def tile_cost(rows: int, blocks: int, update: float, loads: float, latency: float) -> float:
    """Return the cycles of one reduction step, per accumulator register of the tile.

    Args:
        rows: pixels of the tile.
        blocks: registers of channels of the tile.
        update: cycles to update one register.
        loads: cycles to load one vector or broadcast one word.
        latency: cycles from one update of a register to the next.
    """
    busy = max(rows * blocks * update, (rows + blocks) * loads, latency)
    # Among equal tiles the one that loads less leaves more slack.
    return (busy + 0.1 * (rows + blocks) * loads) / (rows * blocks)


def make_plan(
    work: ConvWork,
    lanes: int,
    *,
    registers: int,
    update: float,
    loads: float = 0.5,
    latency: float = 4,
    most_blocks: int = 32,
    weight_bytes: int = 0,
    cache_bytes: int = 256 * 1024,
) -> Plan:
    """Choose the tile that wastes least.

    Args:
        work: the convolution.
        lanes: output channels in one register.
        registers: vector registers for accumulators and the weights of one step.
        update: see :func:`tile_cost`.
        loads: see :func:`tile_cost`.
        latency: see :func:`tile_cost`.
        most_blocks: registers of channels in a tile at most (what a packed word needs is taken).
        weight_bytes: size of the packed weights.
        cache_bytes: what stays in cache while an image passes.
    """
    flat = flattens(work)
    width = work.batch * work.out_height * work.out_width if flat else work.out_width
    granule = max(1, WORD // lanes) if work.epilogue.pack else 1
    columns = ceil_div(work.out_channels, lanes * granule) * granule
    best: tuple[float, int, int] | None = None
    for blocks in range(granule, max(granule, min(columns, registers, most_blocks)) + 1, granule):
        for rows in range(1, min(width, registers) + 1):
            fits = rows * blocks + blocks < registers
            fits = fits and rows * blocks * lanes * 4 < _STACK_BYTES
            if not fits and (rows, blocks) != (1, granule):
                continue
            waste = ceil_div(width, rows) * rows / width
            waste *= ceil_div(columns, blocks) * blocks / columns
            if (flat and width % rows) or columns % blocks:
                waste *= _RAGGED_COST
            cost = waste * tile_cost(rows, blocks, update, loads, latency)
            if best is None or cost < best[0]:
                best = (cost, rows, blocks)
    assert best is not None
    _, rows, blocks = best
    return Plan(
        lanes=lanes,
        rows=rows,
        blocks=blocks,
        flat=flat,
        batch=1 if flat else work.batch,
        height=1 if flat else work.out_height,
        width=width,
        width_stored=ceil_div(width, rows) * rows,
        columns=ceil_div(columns, blocks) * blocks,
        weights_outer=weight_bytes > cache_bytes,
    )
