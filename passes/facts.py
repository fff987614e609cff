"""What is proven of a value: the codes behind it, and the interval that it lies in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.ops import attrs_of, codes_of
from tvm_qnn.passes.rewrite import Rewriter, constant
from tvm_qnn.spec import Codes, QType


@dataclass(frozen=True)
class Quantized:
    """A value that equals ``qtype.dequantize(codes)``.

    Attributes:
        codes: Relax expression of the codes.
        qtype: their meaning.
    """

    codes: Any
    qtype: QType

    def with_type(self, **changes: Any) -> Quantized:
        """Return this value with other fields of its type."""
        return replace(self, qtype=replace(self.qtype, **changes))


def quantized(rewriter: Rewriter, expr: Any) -> Quantized | None:
    """Read the proof that the module holds: ``expr`` is a dequantize or a lookup of codes."""
    call = rewriter.defined_by(expr, "qnn.dequantize", "qnn.lookup")
    if call is None:
        return None
    attrs = attrs_of(call)
    codes, axis = codes_of(attrs), attrs.get("axis")
    parameters = [p for p in map(constant, call.args[1:]) if p is not None]
    if len(parameters) < len(call.args) - 1:
        return None
    if call.op.name == "qnn.lookup":
        table = np.atleast_2d(parameters[0])
        rows = tuple(tuple(row.astype(float).tolist()) for row in table)
        return Quantized(call.args[0], QType(codes, axis=axis, codebook=rows))
    scale, zero = parameters
    return Quantized(call.args[0], QType.of_arrays(codes, scale, zero, axis))


def values_of(rewriter: Rewriter, expr: Any) -> NDArray[Any] | None:
    """Return the array of a constant, which may be quantized (a bias of 8 bits), or None."""
    values = constant(expr)
    if values is not None:
        return values
    proof = quantized(rewriter, expr)
    codes = None if proof is None else constant(proof.codes)
    return None if proof is None or codes is None else proof.qtype.dequantize(codes)


def range_of(qtype: QType) -> tuple[float, float]:
    """Return the smallest and the largest value of a type."""
    if qtype.codebook is not None:
        table = np.asarray(qtype.codebook)
        return float(table.min()), float(table.max())
    scale, zero = np.asarray(qtype.scale, np.float32), np.asarray(qtype.zero, np.int64)
    with np.errstate(over="ignore"):
        low, high = (
            (end - zero).astype(np.float32) * scale for end in (qtype.codes.lo, qtype.codes.hi)
        )
    return float(low.min()), float(high.max())


def narrowed(codes: NDArray[Any], kind: Codes) -> Codes:
    """Return the smallest range that holds the given codes, which are of ``kind``.

    One code, or none, keeps the range of two: a kernel always has a bit to look at.
    """
    present = np.unique(codes).astype(int)
    lo, hi = (int(present[0]), int(present[-1])) if present.size else (kind.lo, kind.lo)
    if lo == hi:
        lo, hi = min(lo, 0), max(hi, 0)
        return Codes(lo, hi) if lo != hi else Codes(0, 1)
    gaps = int(np.gcd.reduce(np.diff(present)))
    return Codes(lo, hi, gaps)


def grid_of(values: NDArray[np.float32]) -> QType | None:
    """Find the grid that float weights [O, ...] lie on: ``scale * integer``, |integer| <= 127.

    Tried for the whole tensor first, then for each index of axis 0; else a codebook of at most 16
    values. A value counts as on the grid if it is the float32 product within two units in the last
    place, since exporters multiply or divide.

    Returns:
        The type, or None if the values are on no grid.
    """
    if not np.isfinite(values).all():
        return None
    whole = _unit(values)
    if whole is not None:
        return QType(Codes(-127, 127), (whole,))
    units = [_unit(row) for row in values]
    if values.ndim > 1 and all(u is not None for u in units):
        return QType(Codes(-127, 127), tuple(u or 1.0 for u in units), axis=0)
    table = np.unique(values)
    if table.size <= 16:
        return QType(Codes(0, table.size - 1), codebook=(tuple(table.astype(float).tolist()),))
    return None


def _unit(values: NDArray[np.float32]) -> float | None:
    """Return the largest unit of which all values are integer multiples up to 127, or None."""
    sizes = np.unique(np.abs(values.astype(np.float64)))
    sizes = sizes[sizes > 0]
    if sizes.size == 0:
        return 1.0
    if sizes.size > 127 or not np.isfinite(sizes).all():
        return None
    for divisor in range(1, 128):
        unit = float(sizes[0]) / divisor
        multiples = np.rint(sizes / unit)
        if multiples[-1] > 127:
            return None
        if np.all(np.abs(multiples * unit - sizes) <= sizes * 2.4e-7):
            return unit
    return None
