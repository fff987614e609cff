"""An ONNX graph under conversion: values with static types, nodes with checked attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, OperatorSetIdProto, TypeProto, checker, defs, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.onnx_load import STORAGE, type_name
from tvm_qnn.frontend.record import MAX_ELEMENTS, Refused, check_shape, plain, quoted, reason_of

_INFERENCE_DATA = 4096
_COUNTS = ("strides", "dilations", "kernel_shape", "group")


@dataclass
class Value:
    """A tensor of the graph.

    Attributes:
        kind: ONNX element type; 4-bit and 2-bit types are stored in 8 bits.
        shape: Static shape.
        expr: Relax expression, made on demand for constants.
        data: The values of a constant, in storage dtype.
        indices: Whether all values are known to be 0 or greater (indices made from unsigned codes).
    """

    kind: int
    shape: tuple[int, ...]
    expr: Any = None
    data: NDArray[np.generic] | None = None
    indices: bool = False

    @property
    def dtype(self) -> str:
        """Storage dtype."""
        return STORAGE[self.kind]

    def use(self) -> Any:
        """Return the Relax expression."""
        if self.expr is None:
            assert self.data is not None
            self.expr = relax.const(self.data, self.dtype)
        return self.expr


@dataclass
class Node:
    """A node under conversion.

    Attributes:
        proto: The node.
        name: Its name, or its first output's.
        inputs: Its inputs, None for absent ones; as long as the operator allows.
        outputs: Types of its outputs, None for absent ones.
        attrs: Its attributes as Python values.
        opset: Version of its operator set.
        builder: Builder of the module.
        sources: Where bound results are noted: name of the variable -> name of the node.
    """

    proto: NodeProto
    name: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attrs: dict[str, Any]
    opset: int
    builder: Any
    sources: dict[str, str]

    @property
    def op(self) -> str:
        """Operator type."""
        return str(self.proto.op_type)

    def emit(self, expr: Any) -> Any:
        """Bind a result of the node."""
        bound = self.builder.emit(expr)
        self.sources[str(bound.name)] = self.name
        return bound

    def input(self, index: int) -> Value:
        """Return an input that must be there."""
        value = self.optional(index)
        if value is None:
            raise Refused(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def result(self) -> Value:
        """Return the type of the first output."""
        value = self.outputs[0] if self.outputs else None
        if value is None:
            raise Refused("has no output")
        return value

    def constant(self, index: int, what: str) -> NDArray[np.generic]:
        """Return the values of an input that must be constant."""
        value = self.input(index)
        if value.data is None:
            raise Refused(f"{what} {quoted(self.proto.input[index])} is not a constant")
        return value.data

    def optional_constant(self, index: int, what: str) -> NDArray[np.generic] | None:
        """Return the values of an input that must be constant where it is given."""
        return None if self.optional(index) is None else self.constant(index, what)

    def need(self, condition: Any, reason: str) -> None:
        """Refuse the node unless ``condition`` holds."""
        if not condition:
            raise Refused(reason)

    def ints(self, name: str, default: list[int]) -> list[int]:
        """Return an attribute that is a list of integers."""
        return [int(v) for v in self.attrs.get(name, default)]


def title(proto: NodeProto) -> str:
    """Return how messages call a node: name and operator."""
    return f"node {quoted(name_of(proto))} ({plain(operator_of(proto))})"


def name_of(proto: NodeProto) -> str:
    """Return the name of a node, or of its first output where it has none."""
    outputs = [name for name in proto.output if name]
    return str(proto.name or (outputs[0] if outputs else proto.op_type) or "node")


def operator_of(proto: NodeProto) -> str:
    """Return the operator of a node, with its domain unless that is the one of ONNX."""
    own = proto.domain in ("", "ai.onnx")
    return str(proto.op_type) if own else f"{proto.domain}.{proto.op_type}"


def attributes(proto: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values.

    Raises:
        Refused: An attribute occurs twice, refers to a function, or is out of all proportion.
    """
    found: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.name in found or attribute.ref_attr_name:
            raise Refused(f"attribute {quoted(attribute.name)} is given twice or by reference")
        try:
            checker.check_attribute(attribute)
            value = helper.get_attribute_value(attribute)
        except Exception as error:
            raise Refused(f"attribute {quoted(attribute.name)}: {reason_of(error)}") from None
        many = list(value) if isinstance(value, list) or hasattr(value, "append") else [value]
        for v in many:
            if isinstance(v, float) and not math.isfinite(v):
                raise Refused(f"attribute {quoted(attribute.name)} is {v}")
            # Sizes beyond this overflow in shape inference; ends of slices are inputs, not these.
            if isinstance(v, int) and abs(v) > MAX_ELEMENTS:
                raise Refused(f"attribute {quoted(attribute.name)} is {v}, beyond 2**31-1")
            # Shape inference divides by them.
            if isinstance(v, int) and v < 1 and attribute.name in _COUNTS:
                raise Refused(f"attribute {quoted(attribute.name)} holds {v}, must be positive")
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        found[attribute.name] = value
    return found


def infer(proto: NodeProto, inputs: list[Value | None], opset: int) -> list[Value | None]:
    """Infer the output types of one node with ONNX's own rules.

    Returns:
        One type for each output of the node; None for outputs that the node leaves out.

    Raises:
        Refused: Types do not fit the operator, or a shape depends on data.
    """
    types: dict[str, TypeProto] = {}
    data = {}
    for name, value in zip(proto.input, inputs, strict=True):
        if value is None:
            continue
        types[name] = helper.make_tensor_type_proto(value.kind, value.shape)
        known = value.data
        if known is None or known.size > _INFERENCE_DATA:
            continue
        if value.dtype in ("int64", "int32", "float32"):
            data[name] = numpy_helper.from_array(known)
    opsets = [OperatorSetIdProto(domain="", version=opset)]
    try:
        schema = defs.get_schema(proto.op_type, opset, "")
        inferred = infer_node_outputs(schema, proto, types, data, opset_imports=opsets)
    except Exception as error:
        # The checker and shape inference of ONNX raise several types, and KeyError inside.
        raise Refused(reason_of(error)) from None
    return [_static(inferred.get(name)) if name else None for name in proto.output]


def _static(found: TypeProto | None) -> Value:
    if found is None or not found.HasField("tensor_type") or not found.tensor_type.elem_type:
        raise Refused("the type of its result is not known")
    kind = found.tensor_type.elem_type
    if kind not in STORAGE:
        raise Refused(f"its result is {type_name(kind)}, which is not supported")
    dims = found.tensor_type.shape.dim
    if not found.tensor_type.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
        raise Refused("the shape of its result depends on data; only static shapes are supported")
    shape = tuple(int(d.dim_value) for d in dims)
    if any(d < 1 for d in shape):
        raise Refused(f"its result would be empty, of shape {list(shape)}")
    check_shape(shape)
    return Value(kind, shape)
