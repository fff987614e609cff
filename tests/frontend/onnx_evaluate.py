"""What the tests of importers share: building ONNX models, running modules and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.frontend import Imported, import_model
from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.spec import QType, dequantize

F32 = TensorProto.FLOAT


def node(op: str, inputs: str, output: str, name: str | None = None, **attrs: Any) -> Any:
    """A node whose inputs are the words of ``inputs`` ("-" for one left out)."""
    names = ["" if i == "-" else i for i in inputs.split()]
    outputs = output.split()
    return helper.make_node(op, names, outputs, name=outputs[0] if name is None else name, **attrs)


def build(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 21,
    kinds: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model; inputs are float32 and outputs untyped unless ``kinds`` says otherwise."""
    kinds = kinds or {}
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
        for value in (constants or {}).values()
    ]
    for name, tensor in zip(constants or {}, tensors, strict=True):
        tensor.name = name
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(k, kinds.get(k, F32), v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, kinds.get(k, 0), None) for k in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def onnxruntime_outputs(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """Run a model node by node, exactly as its operators are defined."""
    typed = onnx.ModelProto()
    typed.CopyFrom(onnx.shape_inference.infer_shapes(model))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        typed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


@relax.expr_functor.mutator
class _Plain(relax.PyExprMutator):
    """Replaces ``qnn.*`` conversions by the float operators that define them."""

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if is_op(call, "qnn.quantize"):
            return self._quantize(call)
        if is_op(call, "qnn.dequantize"):
            x, scale, zero = call.args
            zero, scale = self._along(call, zero, "int32"), self._along(call, scale, "float32")
            q = relax.op.subtract(relax.op.astype(x, "int32"), zero)
            return relax.op.multiply(relax.op.astype(q, "float32"), scale)
        if is_op(call, "qnn.lookup"):
            q, table = call.args
            rows = np.atleast_2d(table.value.numpy())
            book = tuple(tuple(float(v) for v in row) for row in rows)
            kind = QType(codes_of(attrs_of(call)), axis=attrs_of(call)["axis"], codebook=book)
            return relax.const(dequantize(q.value.numpy(), kind), "float32")
        return call

    def _along(self, call: Any, parameter: Any, dtype: str) -> Any:
        axis, rank = attrs_of(call)["axis"], len(shape_of(call.args[0]))
        values = parameter.value.numpy().astype(dtype)
        shape = [1] * rank
        if values.size > 1:
            shape[axis] = values.size
        return relax.const(values.reshape(shape), dtype)

    def _quantize(self, call: Any) -> Any:
        x, scale, zero = call.args
        codes = codes_of(attrs_of(call))
        assert attrs_of(call)["rounding"] == "half_even"
        scale, zero = self._along(call, scale, "float32"), self._along(call, zero, "float32")
        q = relax.op.add(relax.op.round(relax.op.divide(x, scale)), zero)
        return relax.op.astype(relax.op.clip(q, float(codes.lo), float(codes.hi)), codes.dtype)


def module_outputs(imported: Imported, feeds: Mapping[str, Any]) -> list[Any]:
    """Compile an imported module with plain TVM and run it."""
    module = imported.module.clone()
    plain = _Plain().visit_expr(module["main"])
    module.update_func(module.get_global_var("main"), plain)
    return run_module(module, [feeds[i.name] for i in imported.inputs])


def run_module(module: Any, inputs: Sequence[Any]) -> list[Any]:
    """Compile a Relax module for this machine and run its "main"."""
    target = tvm.target.Target({"kind": "llvm", "opt-level": 1})
    machine = relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())
    found = machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(i)) for i in inputs))
    many = [found] if hasattr(found, "numpy") else list(found)
    return [f.numpy() for f in many]


def compare(
    model: onnx.ModelProto, feeds: Mapping[str, Any], *, tolerance: float = 0.0, **options: Any
) -> Imported:
    """Import, run, and compare with ONNX Runtime; 0 asks for equal values."""
    imported = import_model(model, **options)
    expected, found = onnxruntime_outputs(model, feeds), module_outputs(imported, feeds)
    assert len(found) == len(expected) == len(imported.outputs)
    for info, e, f in zip(imported.outputs, expected, found, strict=True):
        assert f.shape == info.shape == e.shape
        assert str(f.dtype) == info.dtype
        e = np.asarray(e).astype(f.dtype)
        if tolerance:
            np.testing.assert_allclose(f, e, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(f, e)
    return imported


def ops_of(imported: Imported) -> list[str]:
    """The operators of "main", in order."""
    return [
        binding.value.op.name
        for block in imported.module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]


def whole(shape: Sequence[int], low: int = -8, high: int = 8, seed: int = 0) -> Any:
    """Small integers in float32, whose sums are exact in any order."""
    return np.random.default_rng(seed).integers(low, high, shape).astype("float32")
