"""ONNX QOperator format: every QLinear operator becomes dequantize, the float operator, quantize.

The result is quantized as ONNX defines it, ``saturate(round(x / scale) + zero)``. ONNX Runtime
multiplies accumulators by one factor instead, so that a value beside a tie may differ by one code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tvm_qnn._tvm import relax
from tvm_qnn.frontend import onnx_layers as layers
from tvm_qnn.frontend import onnx_quant as quant
from tvm_qnn.frontend import onnx_simple as simple
from tvm_qnn.frontend.onnx_check import NEWEST_OPSET, OLDEST_OPSET
from tvm_qnn.frontend.onnx_fallback import convert_with_tvm
from tvm_qnn.frontend.onnx_graph import Node, Value, attributes, infer
from tvm_qnn.frontend.onnx_load import CODES, type_name
from tvm_qnn.frontend.record import Refused
from tvm_qnn.ops import build, shape_of
from tvm_qnn.spec import QType

MICROSOFT = "com.microsoft"
_EXACT = 2**24


@dataclass(frozen=True)
class _Form:
    """Where a quantized operator has its inputs.

    Attributes:
        op: The float operator.
        convert: Its converter.
        operands: For each operand the position of its codes, followed by scale and zero point, and
            the axis that many scales belong to.
        result: Position of the scale of the result, followed by its zero point.
        bias: Position of int32 biases in units of the product of the operands' scales.
    """

    op: str
    convert: Callable[[Node], Any]
    operands: tuple[tuple[int, int], ...]
    result: int
    bias: int | None = None


def _dequantized(n: Node, at: int, axis: int) -> Value:
    codes = n.input(at)
    found = quant.parameters(n.proto, n.inputs, {}, at + 1)
    n.need(codes.kind in CODES, f"input {at} is {type_name(codes.kind)}, codes are needed")
    n.need(
        found.zero is None or found.zero_kind == codes.kind,
        f"zero point {at + 2} is {type_name(found.zero_kind)}, the codes {type_name(codes.kind)}",
    )
    qtype = quant.qtype_of(n, found, codes.kind, codes.shape, axis)
    expr = n.emit(build.dequantize(codes.use(), qtype))
    return Value(TensorProto.FLOAT, codes.shape, expr)


def _bias(n: Node, form: _Form) -> list[Value]:
    if form.bias is None or n.optional(form.bias) is None:
        return []
    codes = n.constant(form.bias, "bias")
    n.need(n.input(form.bias).kind == TensorProto.INT32, "the bias must be int32")
    units = [quant.parameters(n.proto, n.inputs, {}, at + 1).scale for at, _ in form.operands]
    n.need(units[0].size == 1 and units[1].size in (1, codes.size), "scales and biases do not fit")
    unit = units[0] * units[1] * np.float32(n.attrs.get("alpha", 1.0))
    data = codes.astype(np.float32) * unit
    return [Value(TensorProto.FLOAT, data.shape, data=data.astype(np.float32))]


def _float_result(n: Node, op: str, convert: Callable[[Node], Any], values: list[Value]) -> Any:
    """Bind a float operator on ``values`` with the attributes of the node."""
    names = [f"input{k}" for k in range(len(values))]
    proto = helper.make_node(op, names, ["result"], name=n.name)
    own = ("channels_last", "opset")
    proto.attribute.extend(a for a in n.proto.attribute if a.name not in own)
    inputs: list[Value | None] = list(values)
    # Softmax of ONNX Runtime names the opset whose meaning it has.
    opset = int(n.attrs.get("opset", n.opset))
    n.need(OLDEST_OPSET <= opset <= NEWEST_OPSET, f"opset {opset} is not supported")
    inner = replace(
        n, proto=proto, inputs=inputs, outputs=infer(proto, inputs, opset),
        attrs=attributes(proto), opset=opset,
    )  # fmt: skip
    found = convert(inner)
    return n.emit(found.use() if isinstance(found, Value) else found)


def _quantized(n: Node, real: Any, at: int) -> Value:
    found = quant.parameters(n.proto, n.inputs, {}, at)
    kind = found.zero_kind or TensorProto.UINT8
    shape = tuple(shape_of(real))
    qtype = quant.qtype_of(n, found, kind, shape, -1)
    return Value(kind, shape, build.quantize(real, qtype))


def _converter(form: _Form) -> Callable[[Node], Any]:
    def convert(n: Node) -> Any:
        n.need(not n.attrs.get("channels_last", 0), "channels_last is not supported")
        # The scales of a transposed matrix follow its other axis.
        turned = bool(n.attrs.get("transB", 0))
        operands = [_dequantized(n, at, 0 if turned else axis) for at, axis in form.operands]
        real = _float_result(n, form.op, form.convert, operands + _bias(n, form))
        return _quantized(n, real, form.result)

    return convert


def _concat(n: Node) -> Any:
    n.need(len(n.inputs) >= 5 and len(n.inputs) % 3 == 2, f"{len(n.inputs)} inputs")
    operands = [_dequantized(n, at, 0) for at in range(2, len(n.inputs), 3)]
    return _quantized(n, _float_result(n, "Concat", simple.concat, operands), 0)


def _whole_codes(n: Node, at: int, zero_at: int) -> tuple[Value, int]:
    """Return codes less their zero point as float32, and the largest magnitude of it."""
    codes = n.input(at)
    zeros = n.optional_constant(zero_at, "zero point")
    zero = 0 if zeros is None else int(zeros.reshape(-1)[0])
    n.need(zeros is None or zeros.size == 1, "a zero point for each row or column")
    n.need(codes.kind in CODES, f"input {at} is {type_name(codes.kind)}")
    kind = CODES[codes.kind]
    expr = n.emit(build.dequantize(codes.use(), QType(kind, zero=(zero,))))
    values = np.array([kind.lo, kind.hi]) if codes.data is None else codes.data
    largest = int(np.abs(values.astype(np.int64) - zero).max())
    return Value(TensorProto.FLOAT, codes.shape, expr), largest


def _integer(op: str, convert: Callable[[Node], Any], *, taps: int) -> Callable[[Node], Any]:
    """Return the converter of ConvInteger or MatMulInteger, exact or refused.

    Args:
        op: The float operator.
        convert: Its converter.
        taps: From which axis of the second input on the products are summed; negative for the one
            axis.
    """

    def convert_integer(n: Node) -> Any:
        x, high_x = _whole_codes(n, 0, 2)
        w, high_w = _whole_codes(n, 1, 3)
        count = int(np.prod(w.shape[taps:])) if taps > 0 else w.shape[max(taps, -len(w.shape))]
        bound = count * high_x * high_w
        if bound > _EXACT:
            raise Refused(
                f"sums can reach {bound}, beyond 2**24, where float32 is not exact; use QLinear"
                f"{op} or quantize/dequantize nodes"
            )
        real = _float_result(n, op, convert, [x, w])
        return relax.op.astype(real, "int32")

    return convert_integer


def _microsoft(convert: Callable[[Node], Any]) -> Callable[[Node], Any]:
    """Return the converter of a quantizer of ONNX Runtime, which ONNX itself cannot infer."""

    def convert_quantizer(n: Node) -> Any:
        found = quant.parameters(n.proto, n.inputs, n.attrs)
        quantizes = n.op == "QuantizeLinear"
        kind = (found.zero_kind or TensorProto.UINT8) if quantizes else TensorProto.FLOAT
        out = Value(kind, n.input(0).shape)
        result = convert(replace(n, outputs=[out]))
        return result if isinstance(result, Value) else Value(kind, out.shape, result)

    return convert_quantizer


_BINARY = ((0, 0), (3, 0))
_UNARY = ((0, 0),)

QOPERATORS: dict[str, Callable[[Node], Any]] = {
    "ConvInteger": _integer("Conv", layers.conv, taps=1),
    "MatMulInteger": _integer("MatMul", layers.matmul, taps=-2),
    "QLinearConv": _converter(_Form("Conv", layers.conv, ((0, 0), (3, 0)), 6, bias=8)),
    "QLinearMatMul": _converter(_Form("MatMul", layers.matmul, ((0, -2), (3, -1)), 6)),
    f"{MICROSOFT}.DequantizeLinear": _microsoft(quant.dequantize_linear),
    f"{MICROSOFT}.QGemm": _converter(_Form("Gemm", layers.gemm, ((0, 0), (3, 1)), 7, bias=6)),
    f"{MICROSOFT}.QLinearAdd": _converter(_Form("Add", simple.binary(relax.op.add), _BINARY, 6)),
    f"{MICROSOFT}.QLinearAveragePool": _converter(
        _Form("AveragePool", layers.average_pool, _UNARY, 3)
    ),
    f"{MICROSOFT}.QLinearConcat": _concat,
    f"{MICROSOFT}.QLinearGlobalAveragePool": _converter(
        _Form("GlobalAveragePool", layers.global_average_pool, _UNARY, 3)
    ),
    **{
        f"{MICROSOFT}.QLinear{op}": _converter(_Form(op, convert_with_tvm, _UNARY, 3))
        for op in ("LeakyRelu", "Sigmoid", "Softmax")
    },
    f"{MICROSOFT}.QLinearMul": _converter(
        _Form("Mul", simple.binary(relax.op.multiply), _BINARY, 6)
    ),
    f"{MICROSOFT}.QuantizeLinear": _microsoft(quant.quantize_linear),
}
"""Converters by operator, those of ONNX Runtime with their domain."""
