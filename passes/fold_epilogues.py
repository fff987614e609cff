"""Everything between an accumulator and the next quantizer becomes one requantization.

Matches ``qnn.quantize`` of a chain of multiplications and additions of per-channel constants,
``relu`` and ``clip`` that begins at ``qnn.affine`` of accumulators, at ``qnn.dequantize`` of codes,
or at the sum of two dequantized tensors (a residual addition). The chain is folded in float64 and
rounded once, to the float32 factor and offset of ``spec.requantize``. Requantizations to few codes
become thresholds (:func:`spec.thresholds_of`), which give the same integers. A chain that ends in
float is folded into its ``qnn.affine``. Leaves alone quantizers per channel, and chains through
other operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of, is_op, make, shape_of
from tvm_qnn.passes.facts import Quantized, quantized, values_of
from tvm_qnn.passes.rewrite import Rewriter, constant, per_channel, rewrite
from tvm_qnn.passes.workloads import accumulator_range
from tvm_qnn.spec import Codes, thresholds_of

# With more codes than this, a multiplication is cheaper than the comparisons.
MOST_THRESHOLD_CODES = 4

# A residual stream may have 16 bits; float32 holds them, and sums of two of them.
MOST_CODES = 1 << 16


@dataclass(frozen=True)
class _Chain:
    """``clamp(source * mul + add, low, high)``, per channel of the last axis."""

    source: Any
    mul: NDArray[np.float64]
    add: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @staticmethod
    def of(source: Any, mul: NDArray[Any], add: NDArray[Any]) -> _Chain:
        """Begin a chain without bounds."""
        unbounded = np.full(1, math.inf)
        return _Chain(source, mul.astype(float), add.astype(float), -unbounded, unbounded)

    def scaled(self, factor: NDArray[np.float64]) -> _Chain:
        """Multiply by per-channel factors."""
        # What a factor of 0 makes is 0, wherever the bounds were; so they may stay, around it.
        none = factor == 0
        some = np.where(none, 1.0, factor)
        ends = np.stack(np.broadcast_arrays(self.low * some, self.high * some))
        low, high = ends.min(axis=0), ends.max(axis=0)
        return _Chain(
            self.source,
            self.mul * factor,
            self.add * factor,
            np.where(none, np.minimum(low, 0.0), low),
            np.where(none, np.maximum(high, 0.0), high),
        )

    def shifted(self, offset: NDArray[np.float64]) -> _Chain:
        """Add per-channel offsets."""
        return _Chain(
            self.source, self.mul, self.add + offset, self.low + offset, self.high + offset
        )

    def clamped(self, low: float, high: float) -> _Chain:
        """Clip to bounds."""
        return _Chain(
            self.source,
            self.mul,
            self.add,
            np.clip(self.low, low, high),
            np.clip(self.high, low, high),
        )

    def ends(self) -> tuple[float, float] | None:
        """Return the bounds where all channels share them, else None."""
        if np.unique(self.low).size > 1 or np.unique(self.high).size > 1:
            return None
        return float(self.low.flat[0]), float(self.high.flat[0])


def fold_epilogues(mod: Any) -> Any:
    """Return the module with requantizations in place of float epilogues."""
    mod = rewrite(mod, _visit)
    return rewrite(mod, _finish)


def _visit(rewriter: Rewriter, call: Any, name: str) -> Any:
    if is_op(call, "qnn.quantize"):
        return _requantize(rewriter, call, name)
    if is_op(call, "relax.add", "relax.multiply"):
        chain = _chain(rewriter, call)
        if chain is None or chain.ends() != (-math.inf, math.inf):
            return None
        # A matrix product with a codebook is an image of one row, reshaped behind its scaling.
        scaled = rewriter.defined_by(call.args[0], "qnn.affine", "relax.reshape")
        if scaled is not None and is_op(scaled, "relax.reshape"):
            scaled = rewriter.defined_by(scaled.args[0], "qnn.affine")
        if scaled is None:
            return None
        result = build.affine(chain.source, chain.mul, chain.add)
        if shape_of(chain.source) == shape_of(call):
            return result
        return relax.op.reshape(rewriter.emit(result, f"{name}_image"), shape_of(call))
    return None


def _finish(rewriter: Rewriter, call: Any, name: str) -> Any:
    """Round the folded factors of what stays float to float32."""
    if is_op(call, "qnn.affine"):
        mul, add = (constant(a) for a in call.args[1:])
        if mul is not None and add is not None and mul.dtype == np.float64:
            parameters = [build.const(v, "float32") for v in (mul, add)]
            return make("qnn.affine", [call.args[0], *parameters])
    return None


def _chain(rewriter: Rewriter, expr: Any) -> _Chain | None:
    """Follow per-channel arithmetic back to accumulators, codes, or a sum of two tensors."""
    call = rewriter.definition(expr)
    if is_op(call, "qnn.affine"):
        mul, add = (constant(a) for a in call.args[1:])
        return None if mul is None or add is None else _Chain.of(call.args[0], mul, add)
    if is_op(call, "qnn.dequantize"):
        proof = quantized(rewriter, expr)
        if proof is None or not _plain(proof):
            return None
        scale, zero = proof.qtype.scale[0], proof.qtype.zero[0]
        return _Chain.of(proof.codes, np.asarray([scale]), np.asarray([-zero * scale]))
    if is_op(call, "relax.nn.relu"):
        inner = _chain(rewriter, call.args[0])
        return None if inner is None else inner.clamped(0.0, math.inf)
    if is_op(call, "relax.clip"):
        inner = _chain(rewriter, call.args[0])
        bounds = [float(np.float32(a.value)) for a in call.args[1:3]]
        return None if inner is None else inner.clamped(*bounds)
    if is_op(call, "relax.maximum", "relax.minimum"):
        return _bounded(rewriter, call)
    if is_op(call, "relax.reshape") and shape_of(call)[-1] == shape_of(call.args[0])[-1]:
        return _chain(rewriter, call.args[0])
    if not is_op(call, "relax.add", "relax.multiply", "relax.divide"):
        return None
    left, right = call.args
    values = values_of(rewriter, right)
    if values is None and not is_op(call, "relax.divide"):
        left, values = right, values_of(rewriter, left)
    if values is None and _summands(rewriter, expr) is not None:
        return _Chain.of(expr, np.ones(1), np.zeros(1))
    if values is None or shape_of(left) != shape_of(expr):
        return None
    vector = per_channel(values, len(shape_of(left)), -1)
    inner = _chain(rewriter, left)
    if vector is None or inner is None:
        return None
    if is_op(call, "relax.add"):
        return inner.shifted(vector)
    if is_op(call, "relax.divide"):
        if not vector.all():
            return None
        vector = 1.0 / vector
    return inner.scaled(vector)


def _bounded(rewriter: Rewriter, call: Any) -> _Chain | None:
    """Follow a maximum or minimum with one number, a clip with one bound."""
    left, right = call.args
    values = values_of(rewriter, right)
    if values is None:
        left, values = right, values_of(rewriter, left)
    if values is None or values.size != 1 or shape_of(left) != shape_of(call):
        return None
    inner, bound = _chain(rewriter, left), float(values.reshape(-1)[0])
    if inner is None:
        return None
    lower = is_op(call, "relax.maximum")
    return inner.clamped(bound, math.inf) if lower else inner.clamped(-math.inf, bound)


def _requantize(rewriter: Rewriter, call: Any, name: str) -> Any:
    attrs = attrs_of(call)
    scale, zero = (constant(a) for a in call.args[1:])
    if scale is None or zero is None or scale.size > 1 or zero.size > 1:
        return None
    codes, zero_point = codes_of(attrs), int(zero.reshape(-1)[0])
    step = float(scale.reshape(-1)[0])
    chain = _chain(rewriter, call.args[0])
    if chain is None or chain.ends() is None:
        return None
    chain = chain.scaled(np.asarray([1.0 / step]))
    reached: Codes | None = codes
    if codes.step != 1:
        # The rounded value numbers the codes: (x / scale + zero - lo) / step.
        chain = chain.shifted(np.asarray([float(zero_point - codes.lo)]))
        chain = chain.scaled(np.asarray([1.0 / codes.step]))
        numbers = Codes(0, codes.count - 1)
        if _clamped_codes(numbers, 0, chain, attrs["rounding"]) != numbers:
            return None
        zero_point = 0
    else:
        reached = _clamped_codes(codes, zero_point, chain, attrs["rounding"])
    if reached is None:
        return None
    result = _epilogue(rewriter, chain, reached, zero_point, attrs["rounding"])
    if result is None:
        return None
    if reached.dtype != codes.dtype:
        # Whoever reads these codes wants them as the quantizer stores them.
        result = relax.op.astype(rewriter.emit(result, f"{name}_narrow"), codes.dtype)
    if shape_of(chain.source) == shape_of(call):
        return result
    return relax.op.reshape(rewriter.emit(result, f"{name}_codes"), shape_of(call))


def _epilogue(
    rewriter: Rewriter, chain: _Chain, codes: Codes, zero: int, rounding: str
) -> Any | None:
    """Return the threshold, requantize or add call of a chain in steps, or None beyond float32."""
    with np.errstate(over="ignore"):
        mul, add = chain.mul.astype(np.float32), chain.add.astype(np.float32)
    if not (np.isfinite(mul).all() and np.isfinite(add).all()):
        return None
    parts = _summands(rewriter, chain.source)
    if parts is not None:
        return _residual(parts, mul, add, codes, zero, rounding)
    acc_range = accumulator_range(rewriter, chain.source)
    if _is_lossless_pool(rewriter, chain, codes, zero, acc_range):
        return relax.op.astype(chain.source, codes.dtype)
    if codes.count > MOST_THRESHOLD_CODES or acc_range is None:
        return build.requantize(chain.source, mul, add, codes, zero, rounding)
    channels = shape_of(chain.source)[-1]
    levels, falling = thresholds_of(
        np.broadcast_to(mul, channels), np.broadcast_to(add, channels), codes, acc_range, zero,
        rounding,
    )  # fmt: skip
    return build.threshold(chain.source, levels, falling, codes)


def _is_lossless_pool(
    rewriter: Rewriter, chain: _Chain, codes: Codes, zero: int, acc_range: tuple[int, int] | None
) -> bool:
    """Tell whether the codes of a pool are its sums themselves."""
    if rewriter.defined_by(chain.source, "qnn.sum_pool2d") is None or acc_range is None:
        return False
    unchanged = bool((chain.mul == 1).all() and (chain.add == 0).all())
    holds = codes.step == 1 and codes.lo <= acc_range[0] and acc_range[1] <= codes.hi
    return unchanged and zero == 0 and holds


def _clamped_codes(codes: Codes, zero: int, chain: _Chain, rounding: str) -> Codes | None:
    """Let the bounds of a chain in steps become bounds of the codes: rounding is monotone.

    None if the bounds leave a single code, which no kernel stores.
    """
    from tvm_qnn.spec.convert import round_to_int

    bounds = chain.ends()
    assert bounds is not None
    lo, hi = codes.lo, codes.hi
    if math.isfinite(bounds[0]):
        low = int(round_to_int(np.asarray([bounds[0]], np.float32), rounding)[0]) + zero
        lo = min(max(low, codes.lo), codes.hi)
    if math.isfinite(bounds[1]):
        high = int(round_to_int(np.asarray([bounds[1]], np.float32), rounding)[0]) + zero
        hi = max(min(high, codes.hi), codes.lo)
    return Codes(lo, hi) if lo < hi else None


def _summands(rewriter: Rewriter, expr: Any) -> tuple[Quantized, Quantized] | None:
    """Return the parts of a sum of two tensors of one shape that are quantized per tensor."""
    total = rewriter.defined_by(expr, "relax.add")
    if total is None:
        return None
    a, b = (quantized(rewriter, part) for part in total.args)
    if a is None or b is None or not (_plain(a) and _plain(b)):
        return None
    return (a, b) if shape_of(a.codes) == shape_of(b.codes) else None


def _residual(
    parts: tuple[Quantized, Quantized], mul: NDArray[np.float32], add: NDArray[np.float32],
    codes: Codes, zero: int, rounding: str,
) -> Any | None:  # fmt: skip
    """Return the ``qnn.add`` of ``(a + b) * mul + add``, or None where channels differ."""
    if mul.size > 1 or add.size > 1 or codes.step != 1:
        return None
    factor = float(mul.reshape(-1)[0])
    a, b = parts
    a_scale, b_scale = a.qtype.scale[0] * factor, b.qtype.scale[0] * factor
    offset = float(add.reshape(-1)[0]) - (a.qtype.zero[0] * a_scale + b.qtype.zero[0] * b_scale)
    return build.add(
        a.codes, b.codes, a_mul=a_scale, b_mul=b_scale, offset=offset, codes=codes, zero=zero,
        rounding=rounding,
    )  # fmt: skip


def _plain(value: Quantized) -> bool:
    qtype = value.qtype
    return qtype.codebook is None and not qtype.per_axis and qtype.codes.count <= MOST_CODES
