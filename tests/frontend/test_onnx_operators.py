"""Every operator of the ONNX importer against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx_evaluate import build, compare, node, ops_of, whole

from tvm_qnn.frontend.onnx_fallback import FALLBACK

I64 = np.int64

CONVS = {
    "plain": ([1, 3, 7, 9], [4, 3, 3, 3], {}),
    "asymmetric_pads": ([2, 3, 7, 9], [4, 3, 3, 2], {"pads": [0, 1, 2, 3]}),
    "strides_dilation": ([1, 2, 11, 9], [3, 2, 3, 3], {"strides": [2, 3], "dilations": [3, 2]}),
    "same_upper": ([1, 2, 7, 8], [3, 2, 3, 4], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same_lower": ([1, 2, 7, 8], [3, 2, 4, 3], {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "valid": ([1, 2, 7, 8], [3, 2, 4, 3], {"auto_pad": "VALID"}),
    "groups": ([1, 6, 5, 5], [9, 2, 3, 3], {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ([1, 5, 5, 5], [5, 1, 3, 3], {"group": 5}),
    "one_axis": ([1, 3, 9], [4, 3, 3], {"pads": [2, 1]}),
    "three_axes": ([1, 2, 4, 5, 6], [3, 2, 2, 3, 2], {"pads": [1, 0, 2, 0, 1, 1]}),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVS)
def test_conv(case: str, bias: bool) -> None:
    shape, weights, attrs = CONVS[case]
    constants = {"w": whole(weights, seed=1), "b": whole(weights[:1], seed=2)}
    conv = node("Conv", "x w b" if bias else "x w", "y", "layer1/conv", **attrs)
    imported = compare(build([conv], {"x": shape}, ["y"], constants), {"x": whole(shape)})
    assert imported.names["layer1_conv"] == "layer1/conv"


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(
    ("alpha", "beta", "offset"),
    [(1.0, 1.0, (3,)), (0.5, 2.0, (5, 1)), (0.5, 1.0, None), (1.0, 0.0, ()), (1.0, 1.0, ())],
)
def test_gemm(trans_a: int, trans_b: int, alpha: float, beta: float, offset: object) -> None:
    a, b = [5, 7], [7, 3]
    attrs = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    constants = {"b": whole(b[::-1] if trans_b else b, seed=1)}
    if offset is not None:
        constants["c"] = whole(offset, seed=2)
    gemm = node("Gemm", "a b" if offset is None else "a b c", "y", "fc", **attrs)
    shape = a[::-1] if trans_a else a
    compare(build([gemm], {"a": shape}, ["y"], constants), {"a": whole(shape)})


@pytest.mark.parametrize(("a", "b"), [([3, 4], [4, 5]), ([2, 3, 4], [4, 5]), ([4], [4, 5])])
def test_matmul(a: list[int], b: list[int]) -> None:
    model = build([node("MatMul", "a b", "y")], {"a": a}, ["y"], {"b": whole(b, seed=1)})
    compare(model, {"a": whole(a)})


@pytest.mark.parametrize("shape", [[2, 3], [1, 3, 4, 5], [2, 3, 4]])
def test_batch_normalization_is_one_multiply_and_one_add(shape: list[int]) -> None:
    rng = np.random.default_rng(0)
    constants = {k: rng.uniform(0.5, 2, 3).astype("float32") for k in ("s", "b", "m", "v")}
    norm = node("BatchNormalization", "x s b m v", "y", "norm", epsilon=1e-3)
    # ONNX Runtime computes (x - mean) * factor + bias: a few roundings apart.
    imported = compare(
        build([norm], {"x": shape}, ["y"], constants), {"x": whole(shape)}, tolerance=1e-5
    )
    assert ops_of(imported) == ["relax.multiply", "relax.add"]
    assert imported.names == {"x": "x", "norm_multiply": "norm", "norm": "norm"}


POOLS = {
    "plain": ([1, 2, 8, 8], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "overlap": ([1, 2, 9, 8], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1]}),
    "ceil": ([1, 2, 8, 9], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    "ceil_last_window_in_padding": (
        [1, 1, 6, 6],
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    "same": ([1, 2, 7, 8], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same_lower": ([1, 2, 7, 8], {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"}),
    "one_axis": ([1, 2, 7], {"kernel_shape": [3], "strides": [2]}),
}


@pytest.mark.parametrize("case", POOLS)
def test_max_pool(case: str) -> None:
    shape, attrs = POOLS[case]
    compare(build([node("MaxPool", "x", "y", **attrs)], {"x": shape}, ["y"]), {"x": whole(shape)})


def test_max_pool_of_codes_with_dilation() -> None:
    kinds = {"x": TensorProto.UINT8}
    pool = node("MaxPool", "x", "y", kernel_shape=[2, 2], dilations=[2, 1], pads=[1, 0, 1, 0])
    x = np.random.default_rng(0).integers(0, 256, [1, 3, 6, 5]).astype("uint8")
    compare(build([pool], {"x": [1, 3, 6, 5]}, ["y"], kinds=kinds), {"x": x})


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("case", [c for c in POOLS if "ceil" not in c])
def test_average_pool(case: str, include: int) -> None:
    shape, attrs = POOLS[case]
    pool = node("AveragePool", "x", "y", count_include_pad=include, **attrs)
    # Sums of small integers are exact; the division by the count rounds once or twice.
    compare(build([pool], {"x": shape}, ["y"]), {"x": whole(shape)}, tolerance=1e-6)


def test_average_pool_with_ceil_mode() -> None:
    shape, attrs = POOLS["ceil"]
    pool = node("AveragePool", "x", "y", **attrs)
    compare(build([pool], {"x": shape}, ["y"]), {"x": whole(shape)}, tolerance=1e-6)


@pytest.mark.parametrize("shape", [[2, 3, 4, 5], [1, 3, 7]])
def test_global_average_pool(shape: list[int]) -> None:
    model = build([node("GlobalAveragePool", "x", "y")], {"x": shape}, ["y"])
    compare(model, {"x": whole(shape)}, tolerance=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (None, 3.0), (-2.0, None), (None, None)])
def test_clip_bounds_as_inputs_and_as_attributes(low: float | None, high: float | None) -> None:
    given = {k: v for k, v in {"min": low, "max": high}.items() if v is not None}
    constants = {k: np.float32(v) for k, v in given.items()}
    names = f"x {'min' if low is not None else '-'} {'max' if high is not None else '-'}"
    feeds = {"x": whole([3, 5])}
    compare(build([node("Clip", names, "y")], {"x": [3, 5]}, ["y"], constants), feeds)
    compare(build([node("Clip", "x", "y", **given)], {"x": [3, 5]}, ["y"], opset=7), feeds)


SHAPES = {
    "reshape": ([node("Reshape", "x s", "y")], {"s": np.array([0, -1, 2], I64)}),
    "flatten": ([node("Flatten", "x", "y", axis=2)], {}),
    "flatten_all": ([node("Flatten", "x", "y", axis=0)], {}),
    "transpose": ([node("Transpose", "x", "y", perm=[2, 0, 1])], {}),
    "reverse": ([node("Transpose", "x", "y")], {}),
    "unsqueeze": ([node("Unsqueeze", "x a", "y")], {"a": np.array([0, -1], I64)}),
    "squeeze": (
        [node("Unsqueeze", "x a", "u"), node("Squeeze", "u a", "y")],
        {"a": np.array([1], I64)},
    ),
    "concat": ([node("Concat", "x c", "y", axis=-1)], {"c": whole([2, 3, 1], seed=3)}),
    "pad": (
        [node("Pad", "x p v", "y")],
        {"p": np.array([0, 1, 2, 0, 3, 1], I64), "v": np.float32(-1)},
    ),
    "pad_axes": (
        [node("Pad", "x p - a", "y")],
        {"p": np.array([1, 2], I64), "a": np.array([-1], I64)},
    ),
    "identity": ([node("Identity", "x", "i"), node("Relu", "i", "y")], {}),
    "dropout": ([node("Dropout", "x", "d"), node("Relu", "d", "y")], {}),
    "slice": (
        [node("Slice", "x s e a t", "y")],
        {"s": np.array([1]), "e": np.array([2**62]), "a": np.array([-1]), "t": np.array([2])},
    ),
    "slice_from_the_end": (
        [node("Slice", "x s e a", "y")],
        {"s": np.array([-3, 0]), "e": np.array([-1, 1]), "a": np.array([2, 0])},
    ),
    "split": ([node("Split", "x n", "y z", axis=2)], {"n": np.array([1, 3], I64)}),
    "shape_arithmetic": (
        [
            node("Shape", "x", "s"), node("Gather", "s i", "g"), node("Unsqueeze", "g a", "u"),
            node("Concat", "u m", "t", axis=0), node("Reshape", "x t", "y"),
        ],
        {"i": np.array(0), "a": np.array([0]), "m": np.array([-1])},
    ),
    "constant_nodes": (
        [
            node("Constant", "", "c", value_floats=[1.0, 2.0, 3.0, 4.0]),
            node("Constant", "", "k", value_int=2), node("Cast", "k", "f", to=1),
            node("Add", "x c", "a"), node("Mul", "a f", "y"),
        ],
        {},
    ),
    "constant_weights_are_moved": (
        [node("Transpose", "w", "t"), node("MatMul", "x t", "y")], {"w": whole([3, 4], seed=4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str) -> None:
    nodes, constants = SHAPES[case]
    outputs = list(nodes[-1].output)
    compare(build(nodes, {"x": [2, 3, 4]}, outputs, constants), {"x": whole([2, 3, 4])})


def test_two_outputs_and_an_output_that_is_an_input() -> None:
    model = build([node("Relu", "x", "y")], {"x": [3]}, ["y", "x"], kinds={"x": 1})
    compare(model, {"x": whole([3])})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_broadcasts(op: str) -> None:
    model = build([node(op, "x c", "y")], {"x": [2, 3, 4]}, ["y"], {"c": whole([3, 1], 1, 9)})
    compare(model, {"x": whole([2, 3, 4])})


def test_gather_by_codes_needs_no_wrapping_of_negative_indices() -> None:
    constants = {"t": whole([256], seed=1)}
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "t i", "y")]
    x = np.arange(256, dtype="uint8")
    model = build(nodes, {"x": [256]}, ["y"], constants, kinds={"x": TensorProto.UINT8})
    assert ops_of(compare(model, {"x": x})) == ["relax.astype", "relax.take"]


def test_gather_by_negative_indices() -> None:
    constants = {"t": whole([5, 3], seed=1)}
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "t i", "y", axis=0)]
    model = build(nodes, {"x": [7]}, ["y"], constants, kinds={"x": TensorProto.INT8})
    compare(model, {"x": np.array([-5, -1, 0, 4, 2, -3, 1], "int8")})


# Functions of one float argument may differ by the last bits of their approximations.
EXACT = {"Abs", "Ceil", "Floor", "Neg", "Round", "Sign", "Sqrt", "Relu", "LeakyRelu", "PRelu",
         "Max", "Min", "Sum", "GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceSum",
         "Split"}  # fmt: skip
FALLBACK_CASES = {
    **{op: ("x", {}, {}) for op in ("Abs", "Ceil", "Erf", "Exp", "Floor", "GlobalMaxPool",
                                    "HardSigmoid", "HardSwish", "Neg", "Round", "Sigmoid", "Sign",
                                    "Softplus", "Tanh", "Gelu", "Elu")},
    "Gelu_tanh": ("x", {"approximate": "tanh"}, {}),
    "LayerNormalization": ("x g h", {"epsilon": 1e-3}, {"g": whole([5]), "h": whole([5], seed=1)}),
    "LeakyRelu": ("x", {"alpha": 0.125}, {}),
    "Log": ("p", {}, {}),
    "LogSoftmax": ("x", {"axis": 1}, {}),
    "Max": ("x c", {}, {"c": whole([5], seed=2)}),
    "Min": ("x c", {}, {"c": whole([3, 1, 1], seed=2)}),
    "PRelu": ("x c", {}, {"c": whole([3, 1, 1], 1, 4)}),
    "Pow": ("p c", {}, {"c": np.float32(2)}),
    "Reciprocal": ("p", {}, {}),
    "ReduceMax": ("x a", {"keepdims": 0}, {"a": np.array([1, -1])}),
    "ReduceMean": ("x a", {}, {"a": np.array([2, 3])}),
    "ReduceMin": ("x", {}, {}),
    "ReduceSum": ("x a", {"keepdims": 1}, {"a": np.array([1])}),
    "Softmax": ("x", {"axis": -1}, {}),
    "Split": ("x n", {"axis": 3}, {"n": np.array([2, 3])}),
    "Sqrt": ("p", {}, {}),
    "Sum": ("x x x", {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", FALLBACK_CASES)
def test_operators_converted_by_tvm(case: str) -> None:
    names, attrs, constants = FALLBACK_CASES[case]
    op = case.split("_")[0]
    x = np.random.default_rng(5).uniform(-4, 4, [2, 3, 4, 5]).astype("float32")
    x.flat[:6] = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    if op in ("Sum", "ReduceSum"):
        x = np.rint(x)
    feeds = {"x": x} if "x" in names.split() else {"p": np.abs(x)}
    outputs = ["y", "z"] if op == "Split" else ["y"]
    model = build(
        [node(op, names, " ".join(outputs), case, **attrs)],
        {k: [2, 3, 4, 5] for k in feeds}, outputs, constants,
    )  # fmt: skip
    imported = compare(model, feeds, tolerance=0.0 if op in EXACT else 2e-6)
    assert set(imported.names.values()) <= {case, "x", "p"}


OLD = {
    "Softmax": ({"axis": 2}, 11),
    "LogSoftmax": ({}, 11),
    "ReduceSum": ({"axes": [1, -1]}, 11),
    "ReduceMean": ({"axes": [2], "keepdims": 0}, 13),
    "ReduceMax": ({"axes": [2]}, 12),
    "ReduceMin": ({"axes": [-2]}, 11),
    "Split": ({"split": [1, 2], "axis": 1}, 11),
    "Squeeze": ({"axes": [1]}, 11),
    "Unsqueeze": ({"axes": [0, -1]}, 11),
    "Pad": ({"pads": [0, 1, 0, 0, 2, 0, 1, 0], "value": 2.0}, 9),
    "Dropout": ({"ratio": 0.25}, 7),
    "BatchNormalization": ({"epsilon": 0.5}, 7),
    "Flatten": ({"axis": 2}, 7),
}


@pytest.mark.parametrize("op", OLD)
def test_operators_of_older_opsets(op: str) -> None:
    attrs, opset = OLD[op]
    shape = [2, 1, 4, 5] if op == "Squeeze" else [2, 3, 4, 5]
    names = "x a b c d" if op == "BatchNormalization" else "x"
    constants = {k: whole([3], 1, 4, seed=2) for k in names.split()[1:]}
    outputs = ["y", "z"] if op == "Split" else ["y"]
    nodes = [node(op, names, " ".join(outputs), "old", **attrs)]
    model = build(nodes, {"x": shape}, outputs, constants, opset=opset)
    compare(model, {"x": whole(shape)}, tolerance=2e-6)


def test_every_operator_that_tvm_converts_is_compared() -> None:
    assert {case.split("_")[0] for case in FALLBACK_CASES} == FALLBACK
