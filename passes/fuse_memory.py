"""Make one kernel of the operators of a memory network that follow each other.

Matches ``qnn.fixed_*`` operators between which nothing else is computed, and writes the attributes
``kernel`` (one name for all of a run), ``part`` and ``parts`` (the place in the run), and
``outside`` (whether anything beyond the run reads the result). Such a run can be computed at its
last binding, since what lies between two of its members belongs to it. A call of a kernel costs as
much as a whole hop over fifty slots, and results between fused operators never leave the kernel.

Leaves single operators alone, and runs around operators of other kinds (which end a run).
"""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, is_op, make
from tvm_qnn.ops.fixed import FIXED_OPERATORS
from tvm_qnn.passes.rewrite import Rewriter, name_of, rewrite

FUSED = tuple(FIXED_OPERATORS)


def fuse_memory(mod: Any) -> Any:
    """Return the module with fused runs of memory operators marked."""
    mod = relax.transform.Normalize()(mod)
    marks: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(_runs(mod)):
        beyond = _read_beyond(mod, {name_of(binding.var) for binding in run})
        for part, binding in enumerate(run):
            name = name_of(binding.var)
            marks[name] = {
                "kernel": f"qmemory_{number}",
                "part": part,
                "parts": len(run),
                "outside": int(name in beyond),
            }

    def visit(_rewriter: Rewriter, call: Any, name: str) -> Any:
        if name not in marks:
            return None
        return make(call.op.name, call.args, **attrs_of(call), **marks[name])

    return rewrite(mod, visit) if marks else mod


def _runs(mod: Any) -> list[list[Any]]:
    """Return neighbouring bindings of memory operators, of two and more."""
    runs: list[list[Any]] = [[]]
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if is_op(binding.value, *FUSED):
                runs[-1].append(binding)
            else:
                runs.append([])
    return [run for run in runs if len(run) > 1]


def _read_beyond(mod: Any, members: set[str]) -> set[str]:
    """Return the members of a run that others read, or that the function returns."""
    main = mod["main"]
    readers = [b.value for block in main.body.blocks for b in block.bindings
               if name_of(b.var) not in members]  # fmt: skip
    found: set[str] = set()
    for value in [*readers, main.body.body]:
        relax.analysis.post_order_visit(
            value, lambda e: found.add(name_of(e)) if isinstance(e, relax.Var) else None
        )
    return found & members
