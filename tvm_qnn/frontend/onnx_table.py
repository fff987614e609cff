"""Which ONNX operators are imported, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.frontend import onnx_layers as layers
from tvm_qnn.frontend import onnx_quant as quant
from tvm_qnn.frontend import onnx_simple as simple
from tvm_qnn.frontend.onnx_fallback import FALLBACK, convert_with_tvm
from tvm_qnn.frontend.onnx_graph import Node
from tvm_qnn.frontend.onnx_qoperator import QOPERATORS

CONVERTERS: dict[str, Callable[[Node], Any]] = {
    "Add": simple.binary(relax.op.add),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_normalization,
    "Cast": simple.cast,
    "Clip": simple.clip,
    "Concat": simple.concat,
    "Constant": simple.constant,
    "Conv": layers.conv,
    "DequantizeLinear": quant.dequantize_linear,
    "Div": simple.binary(relax.op.divide),
    "Dropout": simple.identity,
    "Flatten": simple.reshape,
    "Gather": quant.gather,
    "GatherElements": quant.gather_elements,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "Identity": simple.identity,
    "MatMul": layers.matmul,
    "MaxPool": layers.max_pool,
    "Mul": simple.binary(relax.op.multiply),
    "Pad": simple.pad,
    "QuantizeLinear": quant.quantize_linear,
    "Relu": simple.relu,
    "Reshape": simple.reshape,
    "Slice": simple.slice_axes,
    "Squeeze": simple.reshape,
    "Sub": simple.binary(relax.op.subtract),
    "Transpose": simple.transpose,
    "Unsqueeze": simple.reshape,
    **QOPERATORS,
    **dict.fromkeys(FALLBACK, convert_with_tvm),
}
"""Converters by operator, those of other domains than ONNX's own with their domain."""

FOLDED = {"Shape", "Size", "Range"}
"""Operators that are evaluated here, and never reach the module."""
