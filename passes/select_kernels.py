"""Choose a kernel family for each integer convolution and matrix product.

Matches ``qnn.conv2d``, ``qnn.dense`` and ``qnn.codebook_conv2d``, and writes the attributes
``kernel``, ``why`` and ``gain``. Among the families that support the work, the fastest tuned one is
taken where a database has any, else the one with the lowest analytic cost, unless one is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_qnn.errors import TargetError
from tvm_qnn.ops import attrs_of, is_op, make
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.passes.epilogues import epilogue_of, taken_epilogues
from tvm_qnn.passes.rewrite import Rewriter, rewrite
from tvm_qnn.passes.workloads import CODEBOOK, KERNELS, codebook_work_of, work_of
from tvm_qnn.schedules import Family, candidates
from tvm_qnn.schedules.database import UNTUNED, Database, layouts
from tvm_qnn.schedules.records import Record
from tvm_qnn.targets.record import Target

_UNITS = ("seconds", "cycles")


@dataclass(frozen=True)
class Choice:
    """A family that can do some work.

    Attributes:
        family: the family.
        cycles: analytic cost.
        record: of its tuned kernel, if there is one.
    """

    family: Family[Any]
    cycles: float
    record: Record | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """Where it comes among others: how its cost is known, then the cost."""
        if self.record is None:
            return (len(_UNITS), self.cycles)
        return _rank(self.record)

    def says(self) -> str:
        """Tell its cost."""
        if self.record is None:
            return f"{self.cycles:.3g} cycles by the cost table"
        cost = self.record.cost
        text = (
            f"{1e6 * cost:.3g} us measured"
            if self.record.unit == "seconds"
            else (f"{cost:.3g} cycles estimated")
        )
        return f"{text}, {self.record.gain:.2f} times faster than untuned"


def _rank(record: Record) -> tuple[int, float]:
    return (_UNITS.index(record.unit), record.cost)


def ranked(
    name: str, work: ConvWork | CodebookWork, target: Target, tuned: Database
) -> list[Choice]:
    """Return the families that can do the work of operator ``name``, the fastest first.

    Costs that were measured come before estimated and both before analytic ones, which know
    nothing of each other.

    Args:
        name: of the operator.
        work: with its epilogue; whether codes or bit planes go in and out is left open.
        target: the device.
        tuned: records.

    Raises:
        TargetError: if there is none, with the reason of each.
    """
    possible, refusals = candidates(work, target)
    if not possible:
        reasons = "; ".join(str(r) for r in refusals)
        raise TargetError(f"{name}: no kernel for {target.name}: {reasons}")
    choices = []
    for family, cycles in possible:
        records = [tuned.find(family, layout, target) for layout in layouts(work)]
        known = [record for record in records if record is not None]
        choices.append(Choice(family, cycles, min(known, key=_rank, default=None)))
    return sorted(choices, key=lambda choice: choice.rank)


def select_kernels(
    mod: Any, target: Target, lowering: str = "auto", tuned: Database = UNTUNED
) -> Any:
    """Return the module with a family chosen for each convolution.

    Args:
        mod: after the epilogues are folded.
        target: the device.
        lowering: ``auto``, or the family to use wherever it supports the work.
        tuned: records of tuned kernels.

    Raises:
        TargetError: if no family supports some work.
    """
    epilogues = taken_epilogues(mod)

    def visit(_rewriter: Rewriter, call: Any, name: str) -> Any:
        if not is_op(call, *KERNELS):
            return None
        after = [epilogues[name][1]] if name in epilogues else []
        work = codebook_work_of(call) if is_op(call, CODEBOOK) else work_of(call)
        choices = ranked(name, work.with_epilogue(epilogue_of(after)), target, tuned)
        wanted = [choice for choice in choices if choice.family.name == lowering]
        chosen = wanted[0] if wanted else choices[0]
        why = chosen.says()
        for other in choices:
            if other is not chosen and other.rank[0] == chosen.rank[0]:
                times = other.rank[1] / max(chosen.rank[1], 1e-9)
                why += f", {other.family.name} {times:.3g} times that"
        return make(
            call.op.name,
            call.args,
            **{
                **attrs_of(call),
                "kernel": chosen.family.name,
                "why": f"asked for; {why}" if wanted else why,
                "gain": 0.0 if chosen.record is None else chosen.record.gain,
            },
        )

    return rewrite(mod, visit)
