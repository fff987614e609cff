"""The schedule and design space that outer-product kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from tvm_qnn._tvm import s_tir, tirx, tvm
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.epilogue import has_result, out_blocks
from tvm_qnn.schedules.family import Family
from tvm_qnn.schedules.ir import STATIC_ATTRS
from tvm_qnn.schedules.plan import Plan
from tvm_qnn.targets.record import Target

W = TypeVar("W")

_LARGEST_TILE = 16
_LARGEST_STEP = 8
"""Reduction steps that are unrolled at most: longer bodies compile slowly and fill the caches."""


def split_tile(sch: Any, loop: Any, inner: int) -> tuple[Any, Any]:
    """Split a loop by a sampled tile whose default inner extent is ``inner`` (it divides)."""
    extent = int(sch.get(loop).extent)
    outer, tile = split(sch, loop, [extent // inner, inner], _LARGEST_TILE)
    return outer, tile


def split(sch: Any, loop: Any, default: Sequence[int], largest: int) -> list[Any]:
    """Split a loop by sampled factors; see :func:`sample`."""
    return sample(sch, loop, default, largest)[0]


def sample(
    sch: Any, loop: Any, default: Sequence[int], largest: int
) -> tuple[list[Any], list[Any]]:
    """Split a loop by sampled factors, outer ones first; return the loops and the factors.

    What depends on a factor must use it, not its value, to follow it when it is tuned.

    Args:
        sch: schedule.
        loop: the loop.
        default: factors without tuning; their product is the extent.
        largest: bound of the innermost factor.
    """
    factors = sch.sample_perfect_tile(
        loop, n=len(default), max_innermost_factor=largest, decision=list(default)
    )
    return list(sch.split(loop, factors)), list(factors)


def schedule_tiles(sch: Any, work: ConvWork, plan: Plan, *, unroll_taps: bool = False) -> Any:
    """Nest the blocks ``acc`` and ``result`` into tiles of ``out``.

    Sampled are the size of the tile, how many channels are done for all pixels before the next
    ones, and how many steps of the reduction are unrolled.

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
    blocks = out_blocks(work, plan)
    count = int(sch.get(c).extent) // blocks
    default = [count, 1, blocks] if plan.weights_outer else [1, count, blocks]
    c_outer, c_middle, c_inner = split(sch, c, default, _LARGEST_TILE)
    order = [c_outer, n, h, w_outer, c_middle]
    sch.reorder(*order, w_inner, c_inner)
    unrolled = [w_inner, c_inner]
    if has_result(work, plan):
        result = sch.get_sblock("result")
        sch.compute_at(result, order[-1], preserve_unit_loops=True)
        unrolled += sch.get_loops(result)[-2:]
    acc = sch.get_sblock("acc")
    sch.compute_at(acc, order[-1], preserve_unit_loops=True)
    _, _, pixels, columns, *reduction = sch.get_loops(acc)[len(order) :]
    if unroll_taps:
        unrolled += reduction
    else:
        last = reduction.pop()
        steps = int(sch.get(last).extent)
        outer, several = split(sch, last, [steps, 1], _LARGEST_STEP)
        unrolled.append(several)
        reduction += [outer, several]
    sch.reorder(*reduction, pixels, columns)
    unrolled += [pixels, columns]
    for loop in unrolled:
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
        trace: a tuned trace as MetaSchedule writes it, or None.
        name: of the kernel.
    """
    sch = schedule_of(func)
    if trace is None:
        family.schedule(sch, work, target)
    else:
        s_tir.schedule.Trace.apply_json_to_schedule(trace, sch)
    return finish(sch, name)


def finish(sch: Any, name: str) -> Any:
    """Return the PrimFunc of a schedule, marked so that TVM leaves it alone."""
    return sch.mod["main"].with_attrs({**STATIC_ATTRS, "global_symbol": name})


def decisions_of(trace: Any) -> Any:
    """Return a trace as lists, numbers and strings, which JSON can hold and ``build`` takes."""
    return _plain(trace.as_json())


def _plain(node: Any) -> Any:
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_plain(part) for part in node]
    if isinstance(node, tirx.IntImm | tirx.FloatImm):
        return node.value
    return node
