"""Prove which values are quantized, whatever the exporter wrote, and say so in the module.

An abstract interpretation over the bindings of ``main``. For each value it keeps an interval and,
where it can, the codes behind the value. A proven value is rewritten to ``qnn.dequantize(codes)``,
so that the later passes find the proof in the module and nowhere else. Matches:

* ``qnn.quantize``: the range of the codes shrinks to what the interval of the input allows (a Clip
  before an 8-bit QuantizeLinear makes 4-state codes);
* ``round``, ``floor``, ``ceil`` of a bounded value: a quantizer with scale 1;
* a positive factor, a divisor, or an offset of a whole or half number of steps on quantized values;
* data movement, concatenation and maximum pooling of quantized values, which move their codes
  (with a type a row, only reshaping constants within their rows);
* ``relu`` and ``clip`` of quantized values, which clip their codes.

Everything else is left alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of, is_op, shape_of
from tvm_qnn.passes.facts import Quantized, quantized, range_of
from tvm_qnn.passes.rewrite import Rewriter, constant, rewrite
from tvm_qnn.spec import Codes, QType, quantize

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
_BOUNDED = {
    "relax.sigmoid": (0.0, 1.0),
    "relax.tanh": (-1.0, 1.0),
    "relax.nn.softmax": (0.0, 1.0),
    "relax.sign": (-1.0, 1.0),
}
_WITHIN = (
    "relax.mean",
    "relax.max",
    "relax.min",
    "relax.nn.max_pool2d",
    "relax.nn.adaptive_avg_pool2d",
)
_ROUNDINGS = {
    "relax.round": "half_even",
    "relax.floor": "floor",
    "relax.ceil": "ceil",
    "relax.trunc": "truncate",
}
_MOVES = (
    "relax.reshape",
    "relax.permute_dims",
    "relax.expand_dims",
    "relax.squeeze",
    "relax.flatten",
    "relax.strided_slice",
)
# More states than this are no codes: a rounded value with a huge interval stays float.
_MOST_CODES = 1 << 16
# Scales stay where float32 has all its digits.
_SMALLEST, _LARGEST = (float(v) for v in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


def infer_quantization(mod: Any) -> Any:
    """Return the module with every proven quantized value written as a dequantize of codes."""
    return relax.transform.FoldConstant()(rewrite(mod, _Inference().visit))


class _Inference:
    def __init__(self) -> None:
        self.intervals: dict[Any, Interval] = {}

    def visit(self, rewriter: Rewriter, call: Any, name: str) -> Any:
        """Replace one call, remembering the interval of its result."""
        result = self._replacement(rewriter, call, name)
        interval = self._interval(rewriter, call)
        if result is None and interval == ANY:
            return None
        result = rewriter.emit(call if result is None else result, name)
        proof = quantized(rewriter, result)
        self.intervals[result] = range_of(proof.qtype) if proof is not None else interval
        return result

    def interval(self, rewriter: Rewriter, expr: Any) -> Interval:
        """Return the interval of a value: remembered, proven by its codes, or of a constant."""
        if expr in self.intervals:
            return self.intervals[expr]
        proof = quantized(rewriter, expr)
        if proof is not None:
            return range_of(proof.qtype)
        values = constant(expr)
        if values is not None and values.size and values.dtype.kind == "f":
            return float(values.min()), float(values.max())
        return ANY

    def _interval(self, rewriter: Rewriter, call: Any) -> Interval:
        name = call.op.name if hasattr(call.op, "name") else ""
        if name in _BOUNDED:
            return _BOUNDED[name]
        if not call.args:
            return ANY
        low, high = self.interval(rewriter, call.args[0])
        if name == "relax.nn.relu":
            return max(low, 0.0), max(high, 0.0)
        if name == "relax.clip":
            floor, ceiling = (float(np.float32(a.value)) for a in call.args[1:3])
            return min(max(low, floor), ceiling), min(max(high, floor), ceiling)
        if name == "relax.nn.avg_pool2d":
            # Padding counts as 0.
            return min(low, 0.0), max(high, 0.0)
        if name in _ROUNDINGS or name in _MOVES or name in _WITHIN:
            return low, high
        if name in (
            "relax.add",
            "relax.multiply",
            "relax.divide",
            "relax.maximum",
            "relax.minimum",
        ):
            return _combine(name, (low, high), self.interval(rewriter, call.args[1]))
        return ANY

    def _replacement(self, rewriter: Rewriter, call: Any, name: str) -> Any:
        if is_op(call, "qnn.quantize"):
            return self._narrow(rewriter, call, name)
        if is_op(call, "qnn.dequantize"):
            return _follow(rewriter, call)
        if is_op(call, *_ROUNDINGS):
            return self._rounding(rewriter, call, name)
        if is_op(call, "relax.multiply", "relax.divide", "relax.add"):
            return _arithmetic(rewriter, call, name)
        if is_op(call, *_MOVES):
            return _move(rewriter, call, name)
        if is_op(call, "relax.concat"):
            return _concat(rewriter, call, name)
        if is_op(call, "relax.nn.relu", "relax.clip"):
            return _clip_codes(rewriter, call, name)
        return None

    def _narrow(self, rewriter: Rewriter, call: Any, name: str) -> Any:
        attrs = attrs_of(call)
        codes = codes_of(attrs)
        scale, zero = (constant(a) for a in call.args[1:])
        if codes.step != 1 or scale is None or zero is None:
            return None
        ends = []
        for end in self.interval(rewriter, call.args[0]):
            for s, z in np.broadcast(scale.reshape(-1), zero.reshape(-1)):
                qtype = QType(codes, (float(s),), (int(z),))
                code = quantize(np.float32(end), qtype, attrs["rounding"])
                ends.append(int(code) if math.isfinite(end) else None)
        half = len(ends) // 2
        lows = [codes.lo if e is None else e for e in ends[:half]]
        highs = [codes.hi if e is None else e for e in ends[half:]]
        shrunk = Codes(min(lows), max(highs)) if min(lows) < max(highs) else codes
        if shrunk == codes:
            return None
        qtype = QType.of_arrays(shrunk, scale, zero, attrs["axis"])
        result = build.quantize(call.args[0], qtype, attrs["rounding"])
        if shrunk.dtype == codes.dtype:
            return result
        # What reads the codes wants them as they were stored; a dequantize looks through the cast.
        return relax.op.astype(rewriter.emit(result, f"{name}_narrow"), codes.dtype)

    def _rounding(self, rewriter: Rewriter, call: Any, name: str) -> Any:
        low, high = self.interval(rewriter, call.args[0])
        if max(abs(low), abs(high)) > _MOST_CODES:
            return None
        rounding = _ROUNDINGS[call.op.name]
        exact = QType(Codes(-_MOST_CODES, _MOST_CODES))
        lo, hi = (int(quantize(np.float32(end), exact, rounding)) for end in (low, high))
        if lo >= hi or hi - lo >= _MOST_CODES:
            return None
        qtype = QType(Codes(lo, hi))
        codes = rewriter.emit(build.quantize(call.args[0], qtype, rounding), f"{name}_codes")
        return build.dequantize(codes, qtype)


def _follow(rewriter: Rewriter, call: Any) -> Any:
    """Let a dequantize take over the range that its quantize was narrowed to."""
    source = call.args[0]
    cast = rewriter.defined_by(source, "relax.astype")
    if cast is not None:
        source = cast.args[0]
    producer = rewriter.defined_by(source, "qnn.quantize")
    attrs = attrs_of(call)
    if producer is None:
        return None
    codes, declared = codes_of(attrs_of(producer)), codes_of(attrs)
    if codes == declared or codes.lo < declared.lo or codes.hi > declared.hi:
        return None
    scale, zero = (constant(a) for a in call.args[1:])
    if scale is None or zero is None:
        return None
    qtype = QType.of_arrays(codes, scale, zero, attrs["axis"])
    return build.dequantize(source, qtype)


def _arithmetic(rewriter: Rewriter, call: Any, name: str) -> Any:
    """Carry a scalar factor, divisor or offset into the type of a quantized value."""
    left, right = call.args
    values = constant(right)
    if values is None and not is_op(call, "relax.divide"):
        left, right, values = right, left, constant(left)
    proof = quantized(rewriter, left)
    if values is None or values.size != 1 or proof is None or proof.qtype.codebook is not None:
        return None
    if shape_of(left) != shape_of(call):
        return None
    number = float(values.reshape(-1)[0])
    if is_op(call, "relax.add"):
        return _offset(rewriter, proof, number, name)
    factor = number if is_op(call, "relax.multiply") else (1.0 / number if number else 0.0)
    if not (math.isfinite(factor) and factor > 0):
        return None
    scale = tuple(s * factor for s in proof.qtype.scale)
    if not all(_SMALLEST <= s <= _LARGEST for s in scale):
        return None
    moved = proof.with_type(scale=scale)
    return build.dequantize(moved.codes, moved.qtype)


def _offset(rewriter: Rewriter, proof: Quantized, number: float, name: str) -> Any:
    """Carry an offset of a whole number of steps into the zero point, of a half one into codes."""
    if len(proof.qtype.scale) != 1:
        return None
    steps = number / proof.qtype.scale[0]
    if abs(steps) > _MOST_CODES:
        return None
    if _whole(steps):
        moved = proof.with_type(zero=tuple(z - round(steps) for z in proof.qtype.zero))
        return build.dequantize(moved.codes, moved.qtype)
    return _doubled(rewriter, proof, round(2 * steps), name) if _whole(2 * steps) else None


def _whole(steps: float) -> bool:
    """Tell whether a quotient of float32 values means a whole number; a tiny one is not 0."""
    return abs(steps - round(steps)) <= 1e-6 * abs(steps)


def _doubled(rewriter: Rewriter, proof: Quantized, halves: int, name: str) -> Any:
    """Number the states of ``scale * (q - zero + halves / 2)`` by the integers 2 * (...), step 2.

    Only for codes that a quantizer with scale 1 makes, which is rewritten to make the new ones.
    """
    old = proof.qtype
    producer = rewriter.defined_by(proof.codes, "qnn.quantize")
    if producer is None or old.codes.step != 1:
        return None
    scale, zero = (constant(a) for a in producer.args[1:])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    rounding = attrs_of(producer)["rounding"]
    # The zero point and the first code, added after rounding here, are added before it there.
    added = int(zero.reshape(-1)[0]) - old.codes.lo
    if added and (rounding == "truncate" or (rounding == "half_even" and added % 2)):
        return None
    shift = halves - 2 * old.zero[0]
    codes = Codes(2 * old.codes.lo + shift, 2 * old.codes.hi + shift, 2)
    # index = round(x / scale + zero) - lo, as (2 x / scale + (zero' - lo')) / 2.
    source_zero = codes.lo + 2 * added
    source = QType(codes, (float(scale.reshape(-1)[0]) / 2,), (source_zero,))
    made = rewriter.emit(build.quantize(producer.args[0], source, rounding), f"{name}_codes")
    return build.dequantize(made, QType(codes, (old.scale[0] / 2,)))


def _move(rewriter: Rewriter, call: Any, name: str) -> Any:
    proof = quantized(rewriter, call.args[0])
    if proof is None:
        return None
    if proof.qtype.per_axis:
        return _unfolded_rows(call, proof)
    moved = relax.Call(call.op, [proof.codes, *call.args[1:]], call.attrs, call.ty_args)
    codes = rewriter.emit(moved, f"{name}_codes")
    return build.dequantize(codes, proof.qtype)


def _unfolded_rows(call: Any, proof: Quantized) -> Any:
    """Reshape constant codes behind axis 0, as exporters do with one codebook a channel."""
    codes, shape = constant(proof.codes), shape_of(call)
    if codes is None or not is_op(call, "relax.reshape") or proof.qtype.axis != 0:
        return None
    if shape[0] != codes.shape[0]:
        return None
    return build.dequantize(build.const(codes.reshape(shape), str(codes.dtype)), proof.qtype)


def _concat(rewriter: Rewriter, call: Any, name: str) -> Any:
    if not isinstance(call.args[0], relax.Tuple):
        return None
    parts = [quantized(rewriter, part) for part in call.args[0].fields]
    found = [p for p in parts if p is not None]
    if len(found) != len(parts) or len({p.qtype for p in found}) != 1 or found[0].qtype.per_axis:
        return None
    joined = relax.op.concat([p.codes for p in found], int(call.attrs.axis))
    codes = rewriter.emit(joined, f"{name}_codes")
    return build.dequantize(codes, found[0].qtype)


def _clip_codes(rewriter: Rewriter, call: Any, name: str) -> Any:
    """Clip codes where the bounds of a relu or clip are values of the type."""
    proof = quantized(rewriter, call.args[0])
    if proof is None or proof.qtype.codebook is not None or proof.qtype.per_axis:
        return None
    kind, scale, zero = proof.qtype.codes, proof.qtype.scale[0], proof.qtype.zero[0]
    if kind.step != 1:
        return None
    bounds = (
        (0.0, math.inf)
        if is_op(call, "relax.nn.relu")
        else tuple(float(np.float32(a.value)) for a in call.args[1:3])
    )
    ends = []
    for bound, end in zip(bounds, (kind.lo, kind.hi), strict=True):
        if math.isinf(bound):
            ends.append(end)
            continue
        if not _whole(bound / scale):
            return None
        ends.append(min(max(round(bound / scale) + zero, kind.lo), kind.hi))
    if tuple(ends) == (kind.lo, kind.hi):
        return build.dequantize(proof.codes, proof.qtype)
    if ends[0] >= ends[1]:
        return None
    codes = Codes(*ends)
    clipped = rewriter.emit(relax.op.clip(proof.codes, codes.lo, codes.hi), f"{name}_codes")
    if codes.dtype != kind.dtype:
        clipped = rewriter.emit(relax.op.astype(clipped, codes.dtype), f"{name}_cast")
    return build.dequantize(clipped, proof.with_type(codes=codes).qtype)


def _combine(name: str, a: Interval, b: Interval) -> Interval:
    """Return the interval of an operation, with its ends rounded as float32 rounds its results."""
    if name == "relax.maximum":
        return max(a[0], b[0]), max(a[1], b[1])
    if name == "relax.minimum":
        return min(a[0], b[0]), min(a[1], b[1])
    left, right = np.asarray(a, np.float32), np.asarray(b, np.float32)
    with np.errstate(all="ignore"):
        if name == "relax.add":
            ends = left + right
        elif name == "relax.multiply":
            ends = np.multiply.outer(left, right)
        elif b[0] <= 0.0 <= b[1]:
            return ANY
        else:
            ends = np.divide.outer(left, right)
    return ANY if np.isnan(ends).any() else (float(ends.min()), float(ends.max()))
