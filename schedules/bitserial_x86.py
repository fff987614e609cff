"""How x86 adds the products of all plane pairs of one word to its accumulators.

VPOPCNTD counts words; one pair costs AND, count and addition. With several pairs it is cheaper to
count bytes, at most 8 each, and to let a dot product instruction weigh and add them: VPDPBUSD in
one instruction, or VPMADDUBSW for each pair and one VPMADDWD for all on AVX2, where popcounts are
table lookups of nibbles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir
from tvm_qnn.targets.record import Target

Update = Callable[[Any, list[Any], list[Any]], Any]
"""From (accumulators, activation planes, weight planes) to the new accumulators."""


def update_cycles(target: Target, pairs: int) -> float:
    """Return the cycles to update one register with one word: measured on a Zen 5 core."""
    return pairs * (0.75 if "vpopcntdq" in target.features else 2.6)


def plane_factors(bits: int, planes: int, *, signed: bool) -> list[tuple[int, int, int]]:
    """Return (activation plane, weight plane, factor) of all pairs, the largest weights first."""
    pairs = []
    for p in reversed(range(planes)):
        sign = -1 if signed and p == planes - 1 else 1
        pairs += [(b, p, sign * 2 ** (p + b)) for b in reversed(range(bits))]
    return pairs


def update_for(target: Target, bits: int, planes: int, *, signed: bool) -> Update:
    """Return the fastest update of a target.

    Args:
        target: the device; AVX2 at least.
        bits: activation planes.
        planes: weight planes.
        signed: the last weight plane counts negative.
    """
    factors = plane_factors(bits, planes, signed=signed)
    lanes = target.vector_bytes // 4
    # The factors are signed bytes of the dot product instructions.
    small = all(-128 <= factor <= 127 for _, _, factor in factors)
    if not small or ("vpopcntdq" in target.features and (bits * planes == 1 or lanes < 16)):
        return lambda acc, x, w: acc + horner(x, w, signed=signed, lanes=lanes)
    if "vnni" in target.features:
        return lambda acc, x, w: _weigh_vnni(acc, x, w, factors)
    return lambda acc, x, w: _weigh_avx2(acc, x, w, factors)


def horner(x: list[Any], w: list[Any], *, signed: bool, lanes: int) -> Any:
    """Return the int32 sum over all plane pairs of one word, by Horner's rule."""
    total: Any = None
    for weight in reversed(range(len(x) + len(w) - 1)):
        if total is not None:
            total = total + total
        for p in range(len(w)):
            if not 0 <= weight - p < len(x):
                continue
            ones = ir.cast(tirx.popcount(tirx.bitwise_and(x[weight - p], w[p])), "int32", lanes)
            negative = signed and p == len(w) - 1
            if total is None:
                total = ir.const(0, "int32", lanes) - ones if negative else ones
            else:
                total = total - ones if negative else total + ones
    return total


def _counts(x: Any, w: Any, size: int) -> Any:
    """Count the common bits of each byte."""
    return tirx.popcount(tirx.reinterpret(f"uint8x{size}", tirx.bitwise_and(x, w)))


def _weigh_vnni(acc: Any, x: list[Any], w: list[Any], factors: list[tuple[int, int, int]]) -> Any:
    for b, p, factor in factors:
        weights = ir.const(factor, "int8", 64)
        counts = _counts(x[b], w[p], 64)
        acc = ir.intrinsic("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, counts, weights)
    return acc


def _weigh_avx2(acc: Any, x: list[Any], w: list[Any], factors: list[tuple[int, int, int]]) -> Any:
    # A pair of bytes counts at most 16, and factors of one byte sum to at most 3 * 127.
    total: Any = None
    for b, p, factor in factors:
        weights = ir.const(factor, "int8", 32)
        counts = _counts(x[b], w[p], 32)
        part = ir.intrinsic("int16x16", "llvm.x86.avx2.pmadd.ub.sw", counts, weights)
        total = part if total is None else total + part
    return acc + ir.intrinsic("int32x8", "llvm.x86.avx2.pmadd.wd", total, ir.const(1, "int16", 16))
