"""Constants folded, batch norm as one multiply and add, TVM's own quantize in our dialect."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.errors import UnsupportedError
from tvm_qnn.ops import attrs_of, build, codes_of, is_op, shape_of
from tvm_qnn.passes.rewrite import Rewriter, constant, rewrite
from tvm_qnn.spec import Codes, QType, quantize


def canonicalize(mod: Any) -> Any:
    """Bring a module of any frontend into one vocabulary.

    Matches ``nn.batch_norm`` with constant statistics, ``relax.quantize`` and ``relax.dequantize``
    with constant parameters, ``take`` of a constant codebook with constant indices, and
    ``subtract`` of a constant. Everything that depends on constants alone is evaluated, except
    ``qnn.dequantize`` and ``qnn.lookup``, which say how the weights are quantized.

    Raises:
        UnsupportedError: if a quantizer of TVM has parameters that are not constant, or codes that
            are not integers.
    """
    mod = rewrite(mod, _visit)
    mod = relax.transform.FoldConstant()(mod)
    return rewrite(mod, lambda rewriter, call, name: _codes(call))


def _visit(rewriter: Rewriter, call: Any, name: str) -> Any:
    if is_op(call, "relax.nn.batch_norm"):
        return _batch_norm(rewriter, call, name)
    if is_op(call, "relax.quantize", "relax.dequantize"):
        return _quantization(call, name)
    if is_op(call, "relax.take"):
        return _codebook(call)
    if is_op(call, "relax.divide"):
        divisor = constant(call.args[1])
        if divisor is not None and divisor.size == 1 and not divisor.any():
            raise UnsupportedError(f"{name}: it divides by the constant 0; export another divisor")
    if is_op(call, "relax.subtract"):
        values = constant(call.args[1])
        if values is not None:
            return relax.op.add(call.args[0], relax.const(-values, str(values.dtype)))
    if is_op(call, "relax.nn.dropout"):
        return relax.Tuple([call.args[0], relax.op.ones_like(call.args[0])])
    return None


def _batch_norm(rewriter: Rewriter, call: Any, name: str) -> Any:
    x = call.args[0]
    parameters = [constant(a) for a in call.args[1:5]]
    if any(p is None for p in parameters) or bool(getattr(call.attrs, "training", False)):
        return None
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    if not call.attrs.scale:
        gamma = np.ones_like(gamma)
    if not call.attrs.center:
        beta = np.zeros_like(beta)
    factor = gamma / np.sqrt(variance + float(call.attrs.epsilon))
    offset = beta - mean * factor
    shape = [1] * len(shape_of(x))
    shape[int(call.attrs.axis)] = factor.size
    scaled = relax.op.multiply(x, relax.const(factor.reshape(shape).astype("float32")))
    scaled = rewriter.emit(scaled, f"{name}_scale")
    shifted = relax.op.add(scaled, relax.const(offset.reshape(shape).astype("float32")))
    return relax.Tuple([rewriter.emit(shifted, name), call.args[3], call.args[4]])


def _quantization(call: Any, name: str) -> Any:
    data, scale, zero = call.args
    scales, zeros = constant(scale), constant(zero)
    if scales is None or zeros is None:
        raise UnsupportedError(
            f"{name}: its scale or zero point is not a constant; quantize statically, with both "
            "stored in the model"
        )
    quantizing = is_op(call, "relax.quantize")
    codes = str(call.attrs.out_dtype) if quantizing else str(data.ty.dtype)
    real = str(data.ty.dtype) if quantizing else str(call.attrs.out_dtype)
    if not codes.startswith(("int", "uint")) or real != "float32":
        raise UnsupportedError(
            f"{name}: {real} values as {codes} codes; float32 values and integer codes are needed"
        )
    info = np.iinfo(codes)
    per_axis = scales.size > 1 or zeros.size > 1
    axis = int(call.attrs.axis) % len(shape_of(data)) if per_axis else None
    qtype = QType.of_arrays(Codes(int(info.min), int(info.max)), scales, zeros, axis)
    return build.quantize(data, qtype) if quantizing else build.dequantize(data, qtype)


def _codes(call: Any) -> Any:
    """Quantize a constant (weights as training leaves them, with their quantizer behind them)."""
    if not is_op(call, "qnn.quantize"):
        return None
    values, scale, zero = (constant(a) for a in call.args)
    if values is None or scale is None or zero is None:
        return None
    attrs = attrs_of(call)
    qtype = QType.of_arrays(codes_of(attrs), scale, zero, attrs["axis"])
    return build.const(quantize(values, qtype, attrs["rounding"]), qtype.codes.dtype)


def _codebook(call: Any) -> Any:
    table, index = (constant(a) for a in call.args)
    if table is None or index is None or table.dtype != np.float32 or table.ndim != 1:
        return None
    count = table.size
    # What an index outside of the table picks depends on the mode of ``take``.
    if not 1 <= count <= 256 or index.size == 0 or index.min() < 0 or index.max() >= count:
        return None
    codes = Codes(0, count - 1)
    qtype = QType(codes, codebook=(tuple(table.astype(float).tolist()),))
    return build.dequantize(build.const(index, codes.dtype), qtype)
