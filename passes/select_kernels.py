"""Choose a kernel family for each integer convolution and matrix product.

Matches ``qnn.conv2d``, ``qnn.dense`` and ``qnn.codebook_conv2d``, and writes the attributes
``kernel`` and ``why``. The family with the lowest analytic cost among those that support the work
is taken, unless one is asked for.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn.errors import TargetError
from tvm_qnn.ops import attrs_of, is_op, make
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.passes.rewrite import Rewriter, rewrite
from tvm_qnn.passes.workloads import CODEBOOK, KERNELS, codebook_work_of, work_of
from tvm_qnn.schedules import Family, candidates
from tvm_qnn.targets.record import Target


def ranked(
    name: str, work: ConvWork | CodebookWork, target: Target
) -> list[tuple[Family[Any], float]]:
    """Return the families that can do the work of operator ``name``, the cheapest first.

    Raises:
        TargetError: if there is none, with the reason of each.
    """
    possible, refusals = candidates(work, target)
    if not possible:
        reasons = "; ".join(str(r) for r in refusals)
        raise TargetError(f"{name}: no kernel for {target.name}: {reasons}")
    return possible


def select_kernels(mod: Any, target: Target, lowering: str = "auto") -> Any:
    """Return the module with a family chosen for each convolution.

    Args:
        mod: after the epilogues are folded.
        target: the device.
        lowering: ``auto``, or the family to use wherever it supports the work.

    Raises:
        TargetError: if no family supports some work.
    """

    def visit(_rewriter: Rewriter, call: Any, name: str) -> Any:
        if not is_op(call, *KERNELS):
            return None
        work = codebook_work_of(call) if is_op(call, CODEBOOK) else work_of(call)
        possible = ranked(name, work, target)
        wanted = [entry for entry in possible if entry[0].name == lowering]
        family, cost = wanted[0] if wanted else possible[0]
        why = f"{cost:.3g} cycles by the cost table"
        for other, cycles in possible:
            if other is not family:
                why += f", {other.name} {cycles / max(cost, 1e-9):.3g} times that"
        if wanted:
            why = f"asked for; {why}"
        return make(
            call.op.name, call.args, **{**attrs_of(call), "kernel": family.name, "why": why}
        )

    return rewrite(mod, visit)
