"""Name every float operator that is left, and say why: nothing stays float silently.

``recognize`` has refused convolutions, products and pooling by then. What remains is arithmetic
between quantizers, and what only real numbers pass through.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops import is_op
from tvm_qnn.passes.rewrite import name_of
from tvm_qnn.schedules.family import Refusal

_MOVES = frozenset(
    f"relax.{name}"
    for name in ("reshape", "permute_dims", "squeeze", "expand_dims", "flatten", "concat")
)
_QUANTIZED = (
    "qnn.dequantize", "qnn.lookup", "qnn.affine", "qnn.codebook_conv2d", "qnn.fixed_output",
)  # fmt: skip


def explain(mod: Any, refusals: list[Refusal]) -> None:
    """Append a refusal for each float operator that has none yet."""
    known = {refusal.node for refusal in refusals}
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    quantized_after = _quantized_after(bindings)
    origin: dict[Any, str] = {}
    for binding in bindings:
        call, name = binding.value, name_of(binding.var)
        origin[binding.var] = source = _origin(call, origin)
        operator = getattr(getattr(call, "op", None), "name", "")
        if not operator.startswith("relax.") or operator in _MOVES or name in known:
            continue
        if "float" not in str(getattr(call.ty, "dtype", "")):
            continue
        later = binding.var in quantized_after
        refusals.append(Refusal(name, *_reason(operator.removeprefix("relax."), source, later)))


def _reason(operator: str, source: str, quantized_later: bool) -> tuple[str, str]:
    if operator.startswith("call_"):
        return (
            "it calls a function outside of Relax, whose meaning is not known here",
            "import the model with Relax operators in its place",
        )
    if source == "input":
        return (
            f"{operator} works on the real-valued input",
            "quantize the input before it, or leave it to the caller",
        )
    if not quantized_later:
        return (
            f"{operator} makes a real-valued output of the network",
            "a quantizer behind it would let it be folded",
        )
    return (
        f"{operator} between quantizers is no scaling, clipping or sum of two quantized tensors",
        "quantize its inputs per tensor and its result",
    )


def _origin(value: Any, origin: dict[Any, str]) -> str:
    """Tell whether a value comes from the real-valued input alone, or from codes."""
    if is_op(value, *_QUANTIZED):
        return "codes"
    return "codes" if any(origin.get(v) == "codes" for v in _read(value)) else "input"


def _quantized_after(bindings: list[Any]) -> set[Any]:
    """Return the variables from which a way leads to a quantizer."""
    found: set[Any] = set()
    for binding in reversed(bindings):
        if is_op(binding.value, "qnn.quantize", "qnn.requantize") or binding.var in found:
            found.update(_read(binding.value))
    return found


def _read(value: Any) -> list[Any]:
    """Return the variables that a bound value reads."""
    parts = [p for a in getattr(value, "args", [value]) for p in getattr(a, "fields", [a])]
    return [p for p in parts if isinstance(p, relax.Var)]
