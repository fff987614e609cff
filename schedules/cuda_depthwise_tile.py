"""How depthwise convolutions on a GPU are shared among threads, without tuning."""

from __future__ import annotations

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.targets.record import Target

DEEPEST = 64
"""Threads of a block along their third axis, at most."""
_BYTES = ("int8", "uint8")
_BUSY = 128
"""Threads of a multiprocessor, at least, before a thread gets several pixels."""


def group_of(work: ConvWork) -> int:
    """Return the neighbouring channels of a thread."""
    return 4 if work.in_channels % 4 == 0 and work.x.dtype in _BYTES else 1


def across_of(work: ConvWork) -> int:
    """Return the threads of a block over channels, whole words of these when packing.

    Many of them, unless too many of the last block would have no channel.
    """
    unit = WORD // group_of(work) if work.epilogue.pack else 1
    count = ceil_div(work.out_channels, unit * group_of(work))

    def cost(units: int) -> float:
        return ceil_div(count, units) * units * (1 + 8 / (units * unit))

    return unit * min(range(1, min(count, cuda.THREADS // unit) + 1), key=cost)


def rows_of(work: ConvWork, target: Target) -> int:
    """Return the pixels of a thread: several where they divide rows well and threads remain."""
    assert target.gpu is not None
    groups = ceil_div(work.out_channels, group_of(work))
    for rows in (4, 2):
        tiles = ceil_div(work.out_width, rows)
        threads = work.batch * work.out_height * tiles * groups
        if tiles * rows * 8 <= work.out_width * 9 and threads >= target.gpu.processors * _BUSY:
            return rows
    return 1


def threads_of(work: ConvWork, plan: Plan) -> tuple[int, int, int]:
    """Return the threads of a block over rows, tiles of a row, and groups of channels."""
    across = across_of(work)
    right = _largest_divisor(plan.width_stored // plan.rows, cuda.THREADS // across)
    down = _largest_divisor(plan.height, min(DEEPEST, cuda.THREADS // (across * right)))
    return down, right, across


def _largest_divisor(count: int, most: int) -> int:
    """Return the largest divisor of a count that is at most ``most``."""
    return max(d for d in range(1, most + 1) if count % d == 0)
