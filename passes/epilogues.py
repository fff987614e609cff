"""Which operators a kernel computes as its epilogue, before it stores what it summed."""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, codes_of, is_op
from tvm_qnn.ops.workload import Epilogue
from tvm_qnn.passes.rewrite import calls, name_of, users_of
from tvm_qnn.passes.workloads import KERNELS

EPILOGUES = {
    "qnn.requantize": "requantize",
    "qnn.threshold": "threshold",
    "qnn.affine": "affine",
}


def taken_epilogues(mod: Any) -> dict[str, tuple[str, Any]]:
    """Map each operator with a kernel to the epilogue that it takes, by name: ``(name, call)``.

    A kernel takes the epilogue that alone reads its sums.
    """
    users, found = users_of(mod["main"]), dict(calls(mod))
    return {
        name_of(source): (name, call)
        for name, call in found.items()
        if is_op(call, *EPILOGUES)
        and isinstance(source := call.args[0], relax.Var)
        and len(users[source]) == 1
        and is_op(found.get(name_of(source)), *KERNELS)
    }


def epilogue_of(after: list[Any]) -> Epilogue:
    """Return the record of an epilogue: none, one of :data:`EPILOGUES`, or one and its pack."""
    if not after:
        return Epilogue()
    attrs = attrs_of(after[0])
    kind = EPILOGUES[after[0].op.name]
    if kind == "affine":
        return Epilogue("affine")
    return Epilogue(
        kind,  # type: ignore[arg-type]
        codes_of(attrs),
        attrs.get("zero", 0),
        attrs.get("rounding", "half_even"),
        pack=len(after) > 1,
    )
