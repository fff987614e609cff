"""Quantizers, codes of every width and codebooks, against ONNX Runtime and numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_evaluate import (
    build,
    compare,
    module_outputs,
    node,
    onnxruntime_outputs,
    ops_of,
    whole,
)

from tvm_qnn.frontend import import_model
from tvm_qnn.ops import attrs_of, is_op

RANGES = {
    "UINT8": (0, 255), "INT8": (-128, 127), "UINT4": (0, 15), "INT4": (-8, 7), "UINT2": (0, 3),
    "INT2": (-2, 1), "UINT16": (0, 65535), "INT16": (-32768, 32767),
}  # fmt: skip
STORED = {"UINT4": "uint8", "INT4": "int8", "UINT2": "uint8", "INT2": "int8"}


def tensor(kind: str, values: object) -> TensorProto:
    array = np.asarray(values)
    return helper.make_tensor("t", getattr(TensorProto, kind), array.shape, array.reshape(-1))


def calls(imported, name):
    return [
        b.value
        for block in imported.module["main"].body.blocks
        for b in block.bindings
        if is_op(b.value, name)
    ]


@pytest.mark.parametrize("kind", RANGES)
def test_quantize_and_dequantize_of_every_width(kind: str) -> None:
    lo, hi = RANGES[kind]
    zero = (lo + hi + 1) // 2 + (1 if hi > 3 else 0)
    step = 0.25
    ends = np.array([lo - 2, lo - 0.5, lo, hi, hi + 0.5, hi + 2]) - zero
    x = np.concatenate([ends, np.arange(-6, 6) + 0.5]).astype("float32") * np.float32(step)
    model = build(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"x": x.shape}, ["q", "y"], {"s": np.float32(step), "z": tensor(kind, zero)}, opset=25,
    )  # fmt: skip
    imported = import_model(model)
    codes, values = module_outputs(imported, {"x": x})
    # np.rint rounds half to even, as ONNX does.
    expected = np.clip(np.rint(x / np.float32(step)) + zero, lo, hi)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(values, (expected - zero).astype("float32") * np.float32(step))
    assert str(codes.dtype) == STORED.get(kind, kind.lower())
    (quantize,) = calls(imported, "qnn.quantize")
    assert (attrs_of(quantize)["lo"], attrs_of(quantize)["hi"]) == (lo, hi)


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "UINT4", "INT4", "UINT16", "INT16"])
def test_widths_that_onnxruntime_knows(kind: str) -> None:
    lo, hi = RANGES[kind]
    x = np.random.default_rng(0).uniform(lo - 3, hi + 3, [4, 5]).astype("float32")
    constants = {"s": np.float32(0.7), "z": tensor(kind, 1)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    compare(build(nodes, {"x": [4, 5]}, ["y"], constants), {"x": x})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis_parameters(axis: int) -> None:
    length = [2, 3, 5][axis]
    constants = {
        "s": np.linspace(0.3, 1.7, length).astype("float32"),
        "z": np.arange(length).astype("uint8"),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q", axis=axis),
        node("DequantizeLinear", "q s z", "y", axis=axis),
    ]
    x = np.random.default_rng(1).uniform(-5, 60, [2, 3, 5]).astype("float32")
    model = build(nodes, {"x": [2, 3, 5]}, ["q", "y"], constants)
    imported = compare(model, {"x": x})
    assert attrs_of(calls(imported, "qnn.quantize")[0])["axis"] == axis % 3


@pytest.mark.parametrize("kind", ["UINT4", "INT4", "UINT2", "INT2"])
def test_narrow_weights_are_widened_and_stay_codes(kind: str) -> None:
    lo, hi = RANGES[kind]
    w = np.random.default_rng(2).integers(lo, hi + 1, [3, 7])
    nodes = [node("DequantizeLinear", "w s", "d", "weight"), node("Gemm", "x d", "y", transB=1)]
    model = build(
        nodes, {"x": [2, 7]}, ["y"], {"w": tensor(kind, w), "s": np.float32(0.5)}, opset=25
    )
    imported = import_model(model)
    (dequantize,) = calls(imported, "qnn.dequantize")
    np.testing.assert_array_equal(dequantize.args[0].value.numpy(), w)
    assert str(dequantize.args[0].value.dtype) == STORED[kind]
    assert (attrs_of(dequantize)["lo"], attrs_of(dequantize)["hi"]) == (lo, hi)
    x = whole([2, 7])
    found = module_outputs(imported, {"x": x})[0]
    np.testing.assert_array_equal(found, x @ (w.T.astype("float32") * np.float32(0.5)))


def test_qdq_convolution_with_int32_bias() -> None:
    constants = {
        "xs": np.float32(0.5), "xz": np.uint8(3), "w": whole([4, 3, 3, 3]).astype("int8"),
        "ws": np.array([0.25, 0.5, 1, 2], "float32"), "wz": np.zeros(4, "int8"),
        "b": np.array([-100, 7, 0, 31], "int32"), "bs": np.array([0.125, 0.25, 0.5, 1], "float32"),
        "ys": np.float32(4), "yz": np.int8(-5),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "x xs xz", "xf"),
        node("DequantizeLinear", "w ws wz", "wf", axis=0),
        node("DequantizeLinear", "b bs", "bf", axis=0),
        node("Conv", "xf wf bf", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r ys yz", "y"),
    ]
    model = build(nodes, {"x": [1, 3, 6, 5]}, ["y"], constants, kinds={"x": TensorProto.UINT8})
    x = np.random.default_rng(3).integers(0, 256, [1, 3, 6, 5]).astype("uint8")
    imported = compare(model, {"x": x})
    assert ops_of(imported) == [
        "qnn.dequantize", "qnn.dequantize", "relax.nn.conv2d", "relax.add", "relax.nn.relu",
        "qnn.quantize",
    ]  # fmt: skip


def test_quantizers_of_old_opsets() -> None:
    constants = {"s": np.float32(0.5), "z": np.uint8(9)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    compare(build(nodes, {"x": [6]}, ["y"], constants, opset=10), {"x": whole([6])})


def test_output_dtype_without_zero_point() -> None:
    nodes = [node("QuantizeLinear", "x s", "q", output_dtype=TensorProto.INT4)]
    model = build([*nodes, node("DequantizeLinear", "q s", "y")], {"x": [9]}, ["y"],
                  {"s": np.float32(1)})  # fmt: skip
    compare(model, {"x": np.linspace(-12, 12, 9).astype("float32")})


@pytest.mark.parametrize("op", ["Reshape", "Transpose"])
def test_narrow_codes_are_moved_as_codes(op: str) -> None:
    constants = {"s": np.float32(1), "z": tensor("UINT4", 0), "t": np.array([-1, 2])}
    move = node(op, "q t" if op == "Reshape" else "q", "m")
    nodes = [node("QuantizeLinear", "x s z", "q"), move, node("DequantizeLinear", "m s z", "y")]
    imported = import_model(build(nodes, {"x": [3, 4]}, ["y"], constants))
    assert [attrs_of(c)["hi"] for c in calls(imported, "qnn.dequantize")] == [15]
    x = whole([3, 4], high=30)
    moved = x.reshape(-1, 2) if op == "Reshape" else x.T
    # ONNX Runtime has no Reshape of uint4.
    found = module_outputs(imported, {"x": x})[0]
    np.testing.assert_array_equal(found, np.clip(moved, 0, 15))


CODEBOOK = np.array([-1.5, -0.25, 0.5, 2.0], "float32")


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_codebook_weights_become_one_lookup(dtype: str) -> None:
    index = np.random.default_rng(4).integers(0, 4, [4, 3, 3, 3]).astype(dtype)
    nodes = [node("Gather", "book i", "w", "weight"), node("Conv", "x w", "y")]
    if dtype == "uint8":
        nodes.insert(0, node("Cast", "i", "wide", to=TensorProto.INT64))
        nodes[1].input[1] = "wide"
    model = build(nodes, {"x": [1, 3, 5, 5]}, ["y"], {"book": CODEBOOK, "i": index})
    imported = compare(model, {"x": whole([1, 3, 5, 5])})
    assert ops_of(imported) == ["qnn.lookup", "relax.nn.conv2d"]
    (lookup,) = calls(imported, "qnn.lookup")
    assert str(lookup.args[0].value.dtype) == "uint8"
    np.testing.assert_array_equal(lookup.args[0].value.numpy(), index)
    assert imported.names["weight"] == "weight"


def test_negative_indices_into_a_codebook() -> None:
    nodes = [node("Gather", "book i", "w"), node("Add", "x w", "y")]
    model = build(nodes, {"x": [3]}, ["y"], {"book": CODEBOOK, "i": np.array([-1, -4, 2])})
    imported = compare(model, {"x": whole([3])})
    assert calls(imported, "qnn.lookup")[0].args[0].value.numpy().tolist() == [3, 0, 2]


def test_one_codebook_a_row() -> None:
    books = whole([4, 3], seed=6)
    index = np.random.default_rng(5).integers(-3, 3, [4, 9])
    nodes = [node("GatherElements", "b i", "w", axis=1), node("Gemm", "x w", "y", transB=1)]
    model = build(nodes, {"x": [2, 9]}, ["y"], {"b": books, "i": index})
    imported = compare(model, {"x": whole([2, 9])})
    assert attrs_of(calls(imported, "qnn.lookup")[0])["axis"] == 0


def test_symbolic_batch_is_fixed_by_the_option() -> None:
    model = build(
        [node("Flatten", "x", "f"), node("Relu", "f", "y")], {"x": ["N", 3, 2]}, ["y"], opset=17
    )
    imported = compare(model, {"x": whole([4, 3, 2])}, batch=4)
    assert imported.inputs[0].shape == (4, 3, 2)
    assert imported.outputs[0].shape == (4, 6)


def test_names_are_identifiers_and_unique() -> None:
    nodes = [
        node("Relu", "x", "a", "layer.0/relu"), node("Relu", "a", "b", "layer/0.relu"),
        node("Relu", "b", "c", "0"), node("Relu", "c", "d", "for"), node("Relu", "d", "é", ""),
    ]  # fmt: skip
    imported = import_model(build(nodes, {"x": [3]}, ["é"]))
    assert list(imported.names.items()) == [
        ("x", "x"), ("layer_0_relu", "layer.0/relu"), ("layer_0_relu_1", "layer/0.relu"),
        ("n_0", "0"), ("n_for", "for"), ("node", "é"),
    ]  # fmt: skip
    names = [b.var.name for block in imported.module["main"].body.blocks for b in block.bindings]
    assert names == [*list(imported.names)[1:], "gv"]


def test_models_are_read_from_files_with_external_data(tmp_path) -> None:
    model = build([node("MatMul", "x w", "y")], {"x": [2, 40]}, ["y"], {"w": whole([40, 30])})
    path = tmp_path / "net.onnx"
    expected = onnxruntime_outputs(model, {"x": whole([2, 40], seed=1)})
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="w.bin")
    for given in (path, str(path)):
        imported = import_model(given)
        assert imported.name == "net.onnx"
        found = module_outputs(imported, {"x": whole([2, 40], seed=1)})
        np.testing.assert_array_equal(found[0], expected[0])
