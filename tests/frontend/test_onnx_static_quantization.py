"""Networks as ONNX Runtime's own quantization tool writes them, in both of its formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_evaluate import build, module_outputs, node, onnxruntime_outputs, ops_of
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from tvm_qnn.frontend import import_model

SHAPE = [1, 3, 8, 8]


class Images(CalibrationDataReader):
    """A few random images."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.normal(size=SHAPE).astype("float32")} for _ in range(3)]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    sizes = {"w1": [8, 3, 3, 3], "b1": [8], "w2": [8, 8, 3, 3], "w3": [8, 1, 3, 3], "f": [8, 5]}
    constants = {k: rng.normal(size=v).astype("float32") * 0.3 for k, v in sizes.items()}
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]), node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]), node("Add", "c2 r1", "a"),
        node("Relu", "a", "r2"), node("MaxPool", "r2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w3", "c3", group=8, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c3", "g"), node("Flatten", "g", "v"),
        node("MatMul", "v f", "y"),
    ]  # fmt: skip
    return build(nodes, {"x": SHAPE}, ["y"], constants, opset=17, kinds={"y": 1})


@pytest.mark.parametrize(
    ("kind", "activations", "weights", "per_channel"),
    [
        (QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, True),
        (QuantFormat.QDQ, QuantType.QInt8, QuantType.QInt8, False),
        (QuantFormat.QDQ, QuantType.QInt16, QuantType.QInt4, False),
        (QuantFormat.QOperator, QuantType.QUInt8, QuantType.QInt8, True),
        (QuantFormat.QOperator, QuantType.QInt8, QuantType.QInt8, False),
    ],
    ids=str,
)
def test_statically_quantized_network(
    tmp_path: Any, kind: Any, activations: Any, weights: Any, per_channel: bool
) -> None:
    source, path = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(network()), source)
    quantize_static(
        source, path, Images(), quant_format=kind, activation_type=activations,
        weight_type=weights, per_channel=per_channel,
    )  # fmt: skip
    imported = import_model(path)
    operators = ops_of(imported)
    assert operators.count("relax.nn.conv2d") == 3
    assert operators.count("qnn.quantize") >= 6
    x = {"x": np.random.default_rng(2).normal(size=SHAPE).astype("float32")}
    found = module_outputs(imported, x)[0]
    expected = onnxruntime_outputs(onnx.load(path), x)[0]
    # Values beside a tie may fall on its other side, as sums are taken in another order: the result
    # may then be a few codes off, of 256 or more codes.
    step = float(np.ptp(expected)) / 64
    np.testing.assert_allclose(found, expected, rtol=0, atol=step)
