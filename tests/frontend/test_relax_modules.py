"""Relax modules as a source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_evaluate import run_module, whole
from tvm.relax.frontend import detach_params

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.frontend import import_model
from tvm_qnn.ops import build
from tvm_qnn.spec import Codes, QType


def module(shape: Any = (2, 3), dtype: str = "float32", names: Any = ("same", "same")) -> Any:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    w = relax.Var("w", relax.TensorType([3, 4], dtype))
    with builder.function("main", [x, w], attrs={"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(x), names[0])
            y = builder.emit(relax.op.matmul(y, w), names[1])
            out = builder.emit_output(y)
        builder.emit_func_output(out)
    return builder.finalize()


def bound(source: Any, **weights: Any) -> Any:
    source["main"] = source["main"].with_attr(
        "params", [tvm.runtime.tensor(w) for w in weights.values()]
    )
    return source


def test_weights_in_the_attributes_are_bound() -> None:
    weights = whole([3, 4], seed=1)
    source = bound(module(), w=weights)
    imported = import_model(source)
    assert [(i.name, i.shape, i.dtype) for i in imported.inputs] == [("x", (2, 3), "float32")]
    assert [(o.shape, o.dtype) for o in imported.outputs] == [((2, 4), "float32")]
    x = whole([2, 3])
    found = run_module(imported.module, [x])[0]
    np.testing.assert_array_equal(found, np.maximum(x, 0) @ weights)
    # The caller keeps what it gave.
    assert len(source["main"].params) == 2
    assert detach_params(source)[1]["main"]


def test_names_stay_and_become_unique() -> None:
    imported = import_model(bound(module(names=("same", "same")), w=whole([3, 4])))
    bindings = [b.var.name for block in imported.module["main"].body.blocks for b in block.bindings]
    assert len(set(bindings)) == len(bindings)
    assert bindings[0] == "same"
    assert set(imported.names) == {"x", *bindings}


def test_quantizers_of_both_dialects_stay() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 3], "float32"))
    scale, zero = relax.const(0.5, "float32"), relax.const(np.int8(0), "int8")
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(relax.op.quantize(x, scale, zero, axis=-1, out_dtype="int8"))
            y = builder.emit(relax.op.dequantize(q, scale, zero, axis=-1))
            out = builder.emit_output(build.quantize(y, QType(Codes(0, 3))))
        builder.emit_func_output(out)
    imported = import_model(builder.finalize())
    blocks = imported.module["main"].body.blocks
    assert [b.value.op.name for block in blocks for b in block.bindings] == [
        "relax.quantize", "relax.dequantize", "qnn.quantize",
    ]  # fmt: skip
    assert imported.outputs[0].dtype == "uint8"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: tvm.IRModule({}), 'the module has no Relax function "main"'),
        (module, "some parameters are weights without values; bind them"),
        (lambda: bound(module(), w=whole([3, 4]), v=whole([1])), "2 weights for 2 - 1 params"),
        (
            lambda: bound(module([tvm.tirx.Var("n", "int64"), 3]), w=whole([3, 4])),
            "'x': has the dynamic shape",
        ),
        (
            lambda: bound(module([2, 3], "float64"), w=whole([3, 4]).astype("float64")),
            "input 'x': has type float64; only float32, uint8, int8 inputs are supported",
        ),
        (lambda: bound(module(), w=whole([4, 3])), "invalid module"),
    ],
)
def test_refused_modules(make: Any, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as error:
        import_model(make())
    assert "\n" not in str(error.value)


def test_every_symbolic_node_is_named() -> None:
    n = tvm.tirx.Var("n", "int64")
    with pytest.raises(UnsupportedError) as error:
        import_model(bound(module([n, 3], names=("first", "second")), w=whole([3, 4])))
    for name in ("node 'first'", "node 'second'", "'x'"):
        assert name in str(error.value)
