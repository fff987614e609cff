"""How each operator is quantized, as the manifest of an artifact records it."""

from __future__ import annotations

from typing import Any

from tvm_qnn.frontend import Imported
from tvm_qnn.inspection import Inspection, source_name
from tvm_qnn.ops import attrs_of, codes_of, is_op
from tvm_qnn.ops.fixed import FIXED_OPERATORS, format_of
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.passes.workloads import CONVOLUTIONS
from tvm_qnn.spec import Codes

_RESULTS = ("qnn.quantize", "qnn.requantize", "qnn.threshold", "qnn.add")


def describe(mod: Any, inspection: Inspection, imported: Imported) -> list[dict[str, Any]]:
    """Return one record for each operator that has codes, then one for each that stays float.

    Records of convolutions and matrix products give the codes and zero points of activations and
    weights; those of quantizers the codes of the result; the others the reason and the remedy.
    """
    records: list[dict[str, Any]] = []
    for name, call in calls(mod):
        record: dict[str, Any] = {"operator": source_name(name, imported)}
        if is_op(call, *FIXED_OPERATORS) and "integer" in attrs_of(call):
            fmt = format_of(attrs_of(call))
            # The output layer takes codes and gives float logits.
            of = "activations" if is_op(call, "qnn.fixed_output") else "result"
            record[of] = {**_codes(fmt.codes), "format": str(fmt)}
            records.append(record)
            continue
        attrs = attrs_of(call) if is_op(call, *CONVOLUTIONS, *_RESULTS) else {}
        if is_op(call, *CONVOLUTIONS):
            record["activations"] = {**_codes(codes_of(attrs, "x_")), "zero": attrs["x_zero"]}
            record["weights"] = {**_codes(codes_of(attrs, "w_")), "zero": attrs["w_zero"]}
        elif attrs:
            record["result"] = _codes(codes_of(attrs))
        else:
            continue
        records.append(record)
    records += [
        {"operator": refusal.node, "float": refusal.reason, "remedy": refusal.remedy}
        for refusal in inspection.refusals
    ]
    return records


def _codes(codes: Codes) -> dict[str, int]:
    return {"bits": codes.bits, "lo": codes.lo, "hi": codes.hi, "step": codes.step}
