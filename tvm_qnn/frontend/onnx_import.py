"""Import of ONNX models: checks, then one converter a node, every problem reported at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from tvm_qnn._tvm import relax
from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.frontend import onnx_quant as quant
from tvm_qnn.frontend import onnx_simple as simple
from tvm_qnn.frontend.bounds import input_bounds
from tvm_qnn.frontend.names import with_names
from tvm_qnn.frontend.onnx_check import advice_for, check_graph, check_model
from tvm_qnn.frontend.onnx_functions import Resolved, resolve
from tvm_qnn.frontend.onnx_graph import (
    Node,
    Value,
    attributes,
    infer,
    name_of,
    operator_of,
    title,
)
from tvm_qnn.frontend.onnx_load import STORAGE, array_of, type_name
from tvm_qnn.frontend.onnx_qoperator import MICROSOFT
from tvm_qnn.frontend.onnx_table import CONVERTERS, FOLDED
from tvm_qnn.frontend.record import (
    Imported,
    Problems,
    Refused,
    TensorInfo,
    check_shape,
    plain,
    quiet,
    quoted,
    reason_of,
)
from tvm_qnn.ops import shape_of

INPUT_KINDS = (
    TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32,
    TensorProto.INT64,
)  # fmt: skip

_INPUTS = ", ".join(STORAGE[kind] for kind in INPUT_KINDS)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def import_onnx(
    model: ModelProto, *, name: str, folder: Path | None, batch: int | None = None
) -> Imported:
    """Import an ONNX model; see :func:`tvm_qnn.frontend.import_model`.

    Args:
        model: The model; it is not changed.
        name: What messages call it.
        folder: Where its external data lies.
        batch: Size of a symbolic first dimension of the inputs.
    """
    opset = check_model(model, plain(name))
    try:
        with quiet():
            resolved = resolve(model, plain(name))
            return _Importer(resolved, plain(name), folder, opset, batch).run()
    except (Refused, RecursionError, MemoryError, UnicodeError) as error:
        raise ModelError(f"{plain(name)}: damaged model ({reason_of(error)})") from None


class _Importer:
    """State of one import: values by name, and the module under construction."""

    def __init__(
        self, resolved: Resolved, name: str, folder: Path | None, opset: int, batch: int | None
    ) -> None:
        self.graph, self.name, self.folder = resolved.model.graph, name, folder
        self.functions, self.notes = resolved.converters, resolved.notes
        self.opset, self.batch = opset, batch
        self.values: dict[str, Value] = {}
        self.problems = Problems()
        self.sources: dict[str, str] = {}
        self.bb = relax.BlockBuilder()

    def run(self) -> Imported:
        """Import the graph."""
        check_graph(self.graph, self.problems)
        # Without an order of the nodes that makes sense, nothing more can be said about them.
        self.problems.raise_if_any(self.name)
        for tensor in self.graph.initializer:
            self._guard(f"initializer {quoted(tensor.name)}", self._initializer, tensor)
        constants = {tensor.name for tensor in self.graph.initializer}
        wanted = [i for i in self.graph.input if i.name not in constants]
        for info in wanted:
            self._guard(f"input {quoted(info.name)}", self._input, info)
        parameters = [self.values[i.name].expr for i in wanted if i.name in self.values]
        with self.bb.function("main", parameters):
            with self.bb.dataflow():
                for proto in self.graph.node:
                    self._guard(title(proto), self._node, proto)
                for info in self.graph.output:
                    self._guard(f"output {quoted(info.name)}", self._check_output, info)
                # TVM wants its blocks ended, also where the module is thrown away.
                result = self.bb.emit_output(self._result())
            self.bb.emit_func_output(result)
        self._raise_if_any()
        bounds = input_bounds(self.bb.get()["main"])
        module, names = with_names(self.bb.finalize(), self.sources)
        return Imported(
            module=module,
            inputs=tuple(
                replace(self._described(i), bounds=b) for i, b in zip(wanted, bounds, strict=True)
            ),
            outputs=tuple(self._described(i) for i in self.graph.output),
            name=self.name,
            source="onnx",
            names=names,
            notes=self.notes,
        )

    def _raise_if_any(self) -> None:
        """Raise what was found; where functions were inlined, that may be why."""
        try:
            self.problems.raise_if_any(self.name)
        except UnsupportedError as error:
            raise UnsupportedError("; ".join([str(error), *self.notes])) from None

    def _guard(self, where: str, step: Callable[[Any], None], item: Any) -> None:
        try:
            step(item)
        except Refused as refused:
            self.problems.add(where, str(refused))

    def _result(self) -> Any:
        if self.problems:
            return relax.Tuple([])
        exprs = [self.values[info.name].use() for info in self.graph.output]
        return exprs[0] if len(exprs) == 1 else relax.Tuple(exprs)

    def _described(self, info: ValueInfoProto) -> TensorInfo:
        value = self.values[info.name]
        return TensorInfo(str(info.name), value.shape, value.dtype)

    def _initializer(self, tensor: TensorProto) -> None:
        data = array_of(tensor, self.folder)
        self.values[tensor.name] = Value(tensor.data_type, data.shape, data=data)

    def _input(self, info: ValueInfoProto) -> None:
        if not info.type.HasField("tensor_type"):
            raise Refused("is not a tensor")
        found = info.type.tensor_type
        if found.elem_type not in INPUT_KINDS:
            raise Refused(
                f"has type {type_name(found.elem_type)}; only {_INPUTS} inputs are "
                "supported; export or convert the model to float32"
            )
        if not found.HasField("shape"):
            raise Refused("has no shape; export the model with fixed shapes")
        shape = [int(d.dim_value) if d.HasField("dim_value") else None for d in found.shape.dim]
        if shape and shape[0] is None and self.batch is not None:
            shape[0] = self.batch
        if shape and shape[0] is None and None not in shape[1:]:
            symbol = found.shape.dim[0].dim_param or "?"
            raise Refused(
                f"has the symbolic batch size {quoted(symbol)}; fix the batch size: pass batch=1, "
                "or export with a fixed shape"
            )
        if None in shape:
            shown = [d.dim_param or d.dim_value or "?" for d in found.shape.dim]
            raise Refused(f"has the dynamic shape {plain(shown)}; export with a fixed shape")
        fixed = tuple(d for d in shape if d is not None)
        check_shape(fixed)
        value = Value(found.elem_type, fixed)
        # Not a name that TVM gives to bindings.
        name = f"input{len(self.values)}"
        value.expr = relax.Var(name, relax.TensorType(fixed, STORAGE[found.elem_type]))
        self.sources[name] = info.name
        self.values[info.name] = value

    def _node(self, proto: NodeProto) -> None:
        operator = operator_of(proto)
        converter = self.functions.get(operator) or CONVERTERS.get(operator)
        if converter is None and operator not in FOLDED:
            self.problems.add_unknown(operator, name_of(proto), advice_for(operator))
            return
        attrs = attributes(proto)
        inputs = [self.values.get(name) if name else None for name in proto.input]
        known_inputs = [not name or name in self.values for name in proto.input]
        if proto.op_type in _QUANTIZERS and all(known_inputs[1:]):
            quant.parameters(proto, inputs, attrs)
        if not all(known_inputs):
            # The root of the trouble is reported already.
            return
        # ONNX knows nothing of these operators; their converters find the types.
        foreign = proto.domain == MICROSOFT or operator in self.functions
        outputs: list[Value | None] = [None] * len(proto.output)
        if not foreign:
            outputs = infer(proto, inputs, self.opset)
        name = name_of(proto)
        node = Node(proto, name, inputs, outputs, attrs, self.opset, self.bb, self.sources)
        try:
            self._define(proto, self._converted(node, converter))
        except Refused:
            # Where the types are known, the nodes below can be checked as well.
            self._define(proto, [v and Value(v.kind, v.shape, _unknown(v)) for v in outputs])
            raise

    def _define(self, proto: NodeProto, results: list[Value | None]) -> None:
        for output, value in zip(proto.output, results, strict=True):
            if output and value is not None:
                self.values[output] = value

    def _converted(self, node: Node, converter: Callable[[Node], Any] | None) -> list[Value | None]:
        folded = simple.fold(node)
        if folded is not None:
            return list(folded)
        if converter is None:
            raise Refused("its result depends on data; only constants are supported")
        try:
            found = converter(node)
            if isinstance(found, Value):
                if isinstance(found.expr, relax.Call):
                    found.expr = _typed(node.emit(found.expr), found).expr
                return [_checked(found, node.outputs[0])] + [None] * (len(node.outputs) - 1)
            bound = node.emit(found)
        except Refused:
            raise
        except Exception as error:
            # TVM reports what it does not take with whatever exception type is at hand.
            raise Refused(f"TVM cannot import it ({reason_of(error)})") from None
        if not isinstance(bound.ty, relax.TupleType):
            return [_typed(bound, node.outputs[0])] + [None] * (len(node.outputs) - 1)
        parts = [node.emit(relax.TupleGetItem(bound, k)) for k in range(len(node.outputs))]
        return [v and _typed(part, v) for part, v in zip(parts, node.outputs, strict=True)]

    def _check_output(self, info: ValueInfoProto) -> None:
        value = self.values.get(info.name)
        if value is None or not info.type.HasField("tensor_type"):
            return
        declared = info.type.tensor_type
        if declared.elem_type not in (0, value.kind):
            raise Refused(
                f"is declared as {type_name(declared.elem_type)}, but is {type_name(value.kind)}"
            )
        if declared.HasField("shape"):
            dims = [int(d.dim_value) if d.HasField("dim_value") else None
                    for d in declared.shape.dim]  # fmt: skip
            pairs = list(zip(dims, value.shape, strict=False))
            if len(dims) != len(value.shape) or any(d not in (None, s) for d, s in pairs):
                raise Refused(f"is declared with shape {dims}, but has shape {list(value.shape)}")


def _unknown(value: Value) -> Any:
    return relax.Var("unknown", relax.TensorType(value.shape, value.dtype))


def _typed(expr: Any, expected: Value | None) -> Value:
    """Return the value of a bound expression, whose type must be the one that ONNX infers."""
    assert expected is not None
    shape = tuple(shape_of(expr))
    dtype = str(expr.ty.dtype)
    if shape != expected.shape or dtype != expected.dtype:
        raise Refused(
            f"gives {dtype} {list(shape)} where ONNX expects {expected.dtype} "
            f"{list(expected.shape)}"
        )
    return Value(expected.kind, shape, expr)


def _checked(value: Value, expected: Value | None) -> Value:
    """Return a value whose type must be the one that ONNX infers, if it infers one."""
    if expected is None:
        return value
    if value.shape != expected.shape or value.kind != expected.kind:
        raise Refused(
            f"gives {type_name(value.kind)} {list(value.shape)} where ONNX expects "
            f"{type_name(expected.kind)} {list(expected.shape)}"
        )
    return value
