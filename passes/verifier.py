"""Check between the phases that a module is what the next phase expects."""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.errors import VerifyError
from tvm_qnn.ops import attrs_of, codes_of, is_op
from tvm_qnn.passes.rewrite import calls, constant
from tvm_qnn.passes.workloads import CODEBOOK, KERNELS, codebook_work_of

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "canonicalize": ("relax.quantize", "relax.dequantize"),
    "infer_quantization": ("relax.quantize", "relax.dequantize"),
    "recognize": (),
    "channels_last": (),
    "fold_epilogues": (),
    "select_kernels": (),
    "plan_layout": (),
    "fuse_memory": (),
}


def verify_module(mod: Any, phase: str) -> None:
    """Check a module after ``phase``.

    Checks that it is well formed, that constants of codes lie in their declared range, that nothing
    is left that the phase removes, and after ``lower`` that no ``qnn.*`` operator is left.

    Raises:
        VerifyError: naming the phase and the first operator that is wrong.
    """
    if not relax.analysis.check_well_formed(mod):
        raise VerifyError(f"after {phase}: the module is not well formed (a bug in this pass)")
    for name, call in calls(mod):
        if phase == "lower" and hasattr(call.op, "name") and call.op.name.startswith("qnn."):
            raise VerifyError(f"after {phase}: {name} is still {call.op.name}")
        if is_op(call, *FORBIDDEN.get(phase, ())):
            raise VerifyError(f"after {phase}: {name} is still {call.op.name}")
        chosen = not is_op(call, *KERNELS) or "kernel" in attrs_of(call)
        if phase == "select_kernels" and not chosen:
            raise VerifyError(f"after {phase}: {name} has no kernel")
        _constants_in_range(phase, name, call)


def _constants_in_range(phase: str, name: str, call: Any) -> None:
    if is_op(call, "qnn.conv2d", "qnn.dense"):
        values, codes = constant(call.args[1]), codes_of(attrs_of(call), "w_")
    elif is_op(call, CODEBOOK):
        values, codes = constant(call.args[1]), codebook_work_of(call).conv.w
    elif is_op(call, "qnn.dequantize"):
        values, codes = constant(call.args[0]), codes_of(attrs_of(call))
    else:
        return
    if values is not None and not codes.contains(values):
        raise VerifyError(f"after {phase}: {name} holds codes outside of {codes}")
