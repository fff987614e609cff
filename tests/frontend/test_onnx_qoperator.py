"""The QOperator format against ONNX Runtime.

Scales are chosen so that ONNX Runtime's one factor and our dequantize, compute, quantize round
alike; with other scales values beside a tie may differ by one code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_evaluate import build, compare, node, ops_of, whole

from tvm_qnn.errors import UnsupportedError
from tvm_qnn.frontend import import_model

OWN = {"domain": "com.microsoft"}
U8 = {"x": TensorProto.UINT8}


def codes(shape: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def model(nodes: Any, shape: Any, constants: Any, output: str = "y") -> Any:
    found = build(nodes, {"x": shape}, [output], constants, kinds=U8, opset=17)
    found.opset_import.add(domain="com.microsoft", version=1)
    # ONNX cannot infer the types of foreign operators, which ONNX Runtime wants to be told.
    return found


def scales(**values: float) -> dict[str, Any]:
    return {k: np.float32(v) for k, v in values.items()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(bias: bool, per_channel: bool) -> None:
    count = 4 if per_channel else 1
    ws = (2.0 ** np.arange(count) / 16).astype("float32")
    wz = np.zeros(count, "int8") if per_channel else np.array([3], "int8")
    constants = {
        **scales(xs=0.5, ys=8), "xz": np.uint8(100), "yz": np.uint8(128),
        "w": whole([4, 3, 3, 2], -128, 128).astype("int8"), "ws": ws, "wz": wz,
        "b": np.array([-300, 7, 0, 31], "int32"),
    }  # fmt: skip
    names = "x xs xz w ws wz ys yz" + (" b" if bias else "")
    attrs = {"pads": [1, 0, 1, 2], "strides": [2, 1]}
    conv = node("QLinearConv", names, "y", "conv", **attrs)
    imported = compare(model([conv], [1, 3, 7, 6], constants), {"x": codes([1, 3, 7, 6])})
    assert [o for o in ops_of(imported) if o != "relax.add"] == [
        "qnn.dequantize", "qnn.dequantize", "relax.nn.conv2d", "qnn.quantize",
    ]  # fmt: skip
    assert set(imported.names.values()) == {"x", "conv"}


@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(per_column: bool) -> None:
    bs = np.array([0.25, 1, 0.5], "float32") if per_column else np.float32(0.25)
    bz = np.array([0, 1, -2], "int8") if per_column else np.int8(5)
    constants = {
        **scales(xs=0.5, ys=16), "xz": np.uint8(7), "yz": np.uint8(120),
        "b": whole([9, 3], -128, 128).astype("int8"), "bs": bs, "bz": bz,
    }  # fmt: skip
    product = node("QLinearMatMul", "x xs xz b bs bz ys yz", "y")
    compare(model([product], [4, 9], constants), {"x": codes([4, 9])})


FOREIGN = {
    "QLinearAdd": ("x s z c t z u v", {}),
    "QLinearMul": ("x s z c t z u v", {}),
    "QLinearGlobalAveragePool": ("x s z u v", {"channels_last": 0}),
    "QLinearAveragePool": ("x s z u v", {"kernel_shape": [2, 2], "strides": [2, 1]}),
    "QLinearConcat": ("u v x s z c t z", {"axis": 1}),
}


@pytest.mark.parametrize("op", FOREIGN)
def test_operators_of_onnxruntime(op: str) -> None:
    names, attrs = FOREIGN[op]
    constants = {
        # Odd multiples of the unit of the result, so that nothing lies on a tie, where the kernels
        # of ONNX Runtime round up.
        **scales(s=0.5, t=0.25, u=0.125 * 1001 if op == "QLinearMul" else 29 / 32),
        "z": np.uint8(3),
        "v": np.uint8(9), "c": codes([1, 2, 4, 4], seed=1),
    }  # fmt: skip
    found = model([node(op, names, "y", "it", **OWN, **attrs)], [1, 2, 4, 4], constants)
    found.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    compare(found, {"x": codes([1, 2, 4, 4])})


@pytest.mark.parametrize("op", ["QLinearSoftmax", "QLinearSigmoid", "QLinearLeakyRelu"])
def test_functions_of_onnxruntime(op: str) -> None:
    attrs = {"QLinearSoftmax": {"axis": -1, "opset": 13}, "QLinearLeakyRelu": {"alpha": 0.125}}
    slope = op == "QLinearLeakyRelu"
    constants = {**scales(s=0.125, u=29 / 32 if slope else 1 / 256), "z": np.uint8(130),
                 "v": np.uint8(100 if slope else 0)}  # fmt: skip
    found = model(
        [node(op, "x s z u v", "y", "it", **OWN, **attrs.get(op, {}))], [4, 40], constants
    )
    found.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    # ONNX Runtime uses tables, whose entries may be one code off.
    compare(found, {"x": codes([4, 40])}, tolerance=1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_qgemm(transposed: int) -> None:
    b = whole([9, 3], -128, 128).astype("int8")
    constants = {
        **scales(xs=0.5, ys=16), "xz": np.uint8(7), "yz": np.uint8(120),
        "b": np.ascontiguousarray(b.T) if transposed else b,
        "bs": np.array([0.25, 1, 0.5], "float32"), "bz": np.zeros(3, "int8"),
        "c": np.array([5, -900, 44], "int32"),
    }  # fmt: skip
    gemm = node("QGemm", "x xs xz b bs bz c ys yz", "y", transB=transposed, **OWN)
    found = model([gemm], [4, 9], constants)
    found.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    compare(found, {"x": codes([4, 9])})


def test_quantizers_of_onnxruntime_with_16_bits() -> None:
    constants = {**scales(s=0.5), "z": np.uint16(1000), "t": np.float32(3)}
    nodes = [
        node("DequantizeLinear", "x s", "f", **OWN), node("Mul", "f t", "g"),
        node("QuantizeLinear", "g s z", "q", **OWN), node("DequantizeLinear", "q s z", "y", **OWN),
    ]  # fmt: skip
    found = model(nodes, [2, 5], constants)
    found.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    compare(found, {"x": codes([2, 5])})


def test_integer_operators_are_exact() -> None:
    constants = {"w": whole([4, 3, 3, 3]).astype("int8"), "z": np.uint8(130), "v": np.int8(0)}
    nodes = [node("ConvInteger", "x w z v", "y", pads=[1, 1, 1, 1])]
    compare(model(nodes, [1, 3, 6, 5], constants), {"x": codes([1, 3, 6, 5])})
    constants = {"w": whole([9, 4], -128, 128).astype("int8"), "z": np.uint8(130)}
    compare(model([node("MatMulInteger", "x w z", "y")], [3, 9], constants), {"x": codes([3, 9])})


REFUSED = {
    "sums beyond float32": (
        [node("MatMulInteger", "x w z", "y", "big")],
        "node 'big' .MatMulInteger.: sums can reach 32640000, beyond 2..24",
    ),
    "scale made at run time": (
        [node("Cast", "x", "f", to=1), node("ReduceMax", "f", "m", keepdims=0),
         node("QLinearAdd", "x m z x s z s z", "y", "add", **OWN)],
        "node 'add' .com.microsoft.QLinearAdd.: scale 'm' is not a constant",
    ),
    "channels last": (
        [node("QLinearGlobalAveragePool", "x s z s z", "y", "pool", channels_last=1, **OWN)],
        "node 'pool' .*: channels_last is not supported",
    ),
    "zero point of another type": (
        [node("QLinearMul", "x s v x s z s z", "y", "mul", **OWN)],
        "node 'mul' .*: zero point 2 is int8, the codes uint8",
    ),
    "foreign operator": (
        [node("QLinearWhere", "x s z s z", "y", "where", **OWN)],
        "operator com.microsoft.QLinearWhere is not supported .1 node: 'where'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    nodes, expected = REFUSED[case]
    constants = {**scales(s=1), "z": np.uint8(0), "v": np.int8(0),
                 "w": np.full([1000, 2], -128, "int8")}  # fmt: skip
    with pytest.raises(UnsupportedError, match=expected):
        import_model(model(nodes, [1, 1000], constants))
