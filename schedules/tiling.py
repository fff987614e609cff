"""The schedule and design space that outer-product kernels share."""

from __future__ import annotations

from typing import Any, TypeVar

from tvm_qnn._tvm import s_tir, tvm
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.epilogue import has_result, out_blocks
from tvm_qnn.schedules.family import Family
from tvm_qnn.schedules.ir import STATIC_ATTRS
from tvm_qnn.schedules.plan import Plan
from tvm_qnn.targets.record import Target

W = TypeVar("W")

_LARGEST_TILE = 16


def split_tile(sch: Any, loop: Any, inner: int) -> tuple[Any, Any]:
    """Split a loop by a sampled tile whose default inner extent is ``inner`` (it divides)."""
    extent = int(sch.get(loop).extent)
    factors = sch.sample_perfect_tile(
        loop, n=2, max_innermost_factor=_LARGEST_TILE, decision=[extent // inner, inner]
    )
    outer, tile = sch.split(loop, factors)
    return outer, tile


def schedule_tiles(sch: Any, work: ConvWork, plan: Plan, *, unroll_taps: bool = False) -> Any:
    """Nest the blocks ``acc`` and ``result`` into tiles of ``out``; draws the size of the tile.

    Args:
        sch: schedule of a kernel with blocks ``acc`` (reduction), maybe ``result``, and ``out``.
        work: the convolution.
        plan: the loops of the kernel and the default tile.
        unroll_taps: unroll the whole reduction.

    Returns:
        the block that updates the accumulators.
    """
    n, h, w, c = sch.get_loops(sch.get_sblock("out"))
    w_outer, w_inner = split_tile(sch, w, plan.rows)
    c_outer, c_inner = split_tile(sch, c, out_blocks(work, plan))
    order = [c_outer, n, h, w_outer] if plan.weights_outer else [n, h, w_outer, c_outer]
    sch.reorder(*order, w_inner, c_inner)
    unrolled = [w_inner, c_inner]
    if has_result(work, plan):
        result = sch.get_sblock("result")
        sch.compute_at(result, order[-1], preserve_unit_loops=True)
        unrolled += sch.get_loops(result)[-2:]
    acc = sch.get_sblock("acc")
    sch.compute_at(acc, order[-1], preserve_unit_loops=True)
    _, _, pixels, blocks, *reduction = sch.get_loops(acc)[len(order) :]
    sch.reorder(*reduction, pixels, blocks)
    unrolled += [pixels, blocks]
    for loop in unrolled:
        sch.unroll(loop)
    if unroll_taps:
        for loop in reduction:
            sch.unroll(loop)
    init = sch.decompose_reduction(acc, reduction[0])
    for loop in sch.get_loops(init)[-2:]:
        sch.unroll(loop)
    return acc


def schedule_of(func: Any) -> Any:
    """Open a schedule of a PrimFunc named ``main``."""
    return s_tir.Schedule(tvm.IRModule({"main": func}))


def scheduled(family: Family[W], func: Any, work: W, target: Target, trace: Any, name: str) -> Any:
    """Return a PrimFunc named ``name``: ``func``, scheduled by a family or by a tuned trace.

    Args:
        family: gives the default decisions where ``trace`` is None.
        func: what :meth:`Family.compute` returns, of any weights.
        work: what it computes.
        target: for which device.
        trace: a tuned MetaSchedule trace, or None.
        name: of the kernel.
    """
    sch = schedule_of(func)
    if trace is None:
        family.schedule(sch, work, target)
    else:
        trace.apply_to_schedule(sch, remove_postproc=False)
    return finish(sch, name)


def finish(sch: Any, name: str) -> Any:
    """Return the PrimFunc of a schedule, marked so that TVM leaves it alone."""
    return sch.mod["main"].with_attrs({**STATIC_ATTRS, "global_symbol": name})
