"""Operators for which the converters of TVM's own ONNX importer are used."""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend.onnx import onnx_frontend

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.onnx_graph import Node
from tvm_qnn.frontend.record import Refused

FALLBACK = {
    "Abs", "Ceil", "Elu", "Erf", "Exp", "Floor", "Gelu", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Max", "Min", "Neg",
    "PRelu", "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Round",
    "Sigmoid", "Sign", "Softmax", "Softplus", "Split", "Sqrt", "Sum", "Tanh",
}  # fmt: skip
"""What is known to convert correctly: each of these is compared with ONNX Runtime in the tests."""

_CONSTANT_INPUTS = {
    "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceSum": (1,),
    "Split": (1,),
}  # fmt: skip


def convert_with_tvm(n: Node) -> Any:
    """Convert a node with TVM's converter for its operator and opset."""
    for index in _CONSTANT_INPUTS.get(n.op, ()):
        n.optional_constant(index, f"input {index}")
    inputs = onnx_frontend.onnx_input()
    inputs.extend(None if value is None else value.use() for value in n.inputs)
    attrs = onnx_frontend.ONNXGraphImporter({}, {})._parse_attr(n.proto.attribute)
    attrs["tvm_custom"] = {"name": n.name, "num_outputs": len(n.proto.output)}
    converter = onnx_frontend._get_convert_map()[n.op].get_converter(n.opset)
    found = converter(n.builder, inputs, attrs, [{}, {}])
    if not isinstance(found, relax.Expr):
        raise Refused(f"TVM's converter gives a {type(found).__name__}, not a tensor")
    return found
