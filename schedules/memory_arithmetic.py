"""How products of codes with a key are computed and summed, for each instruction set.

Codes of up to 8 bits are sign and magnitude: the magnitude of a product (or, for Hamming
similarity, of an agreement) is made in unsigned bytes, and one byte dot product with the signs adds
them up. An agreement needs no loop over bits: the sum over k of ``2**k * XNOR(a_k, b_k)`` is
``m - (a XOR b)``, which is ``a XOR (b XOR m)``.

Wider codes are multiplied in int32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.memory_work import BINARY, DOT, HAMMING
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.record import Target


class Arithmetic(Protocol):
    """Sums over the elements of a row, in vectors of partial sums."""

    @property
    def dtype(self) -> str:
        """The dtype of the codes."""

    @property
    def chunk(self) -> int:
        """The codes in one step."""

    @property
    def lanes(self) -> int:
        """The int32 partial sums of a row, and the rows whose sums are finished together."""

    def key(self, mode: str, fmt: FixedPoint, k: Any, inside: Any) -> list[Any]:
        """Return what a step needs of ``chunk`` elements of a key.

        Args:
            mode: what is summed.
            fmt: format of the codes.
            k: codes of the key, 0 beyond its end.
            inside: 1 for elements of the key, 0 beyond its end.
        """

    def start(self, mode: str, keys: Sequence[Any]) -> Any:
        """Return partial sums to start from, one chunk's worth, or None for zeros."""

    def add(self, mode: str, fmt: FixedPoint, total: Any, u: Any, keys: Sequence[Any]) -> Any:
        """Add one step: ``u`` are codes of a row; beyond its end they may be anything."""


@dataclass(frozen=True)
class Bytes:
    """Codes of up to 8 bits.

    Attributes:
        chunk: codes in one vector.
        lanes: int32 sums in one vector.
        dot: adds products of bytes, the first unsigned below 128 (any where ``biased``).
        magnitudes: from magnitudes of codes, those of the key as ``split`` gives them, and the
            format, to magnitudes of products.
        split: from the magnitudes of a key to what ``magnitudes`` takes.
        biased: the first operand of ``dot`` is unsigned: signed codes are biased by 128.
    """

    chunk: int
    lanes: int
    dot: Callable[[Any, Any, Any], Any]
    magnitudes: Callable[[Any, Sequence[Any], FixedPoint], Any]
    split: Callable[[Any], list[Any]]
    biased: bool
    dtype: str = "int8"

    def key(self, mode: str, fmt: FixedPoint, k: Any, inside: Any) -> list[Any]:
        """See :class:`Arithmetic`: the sign, then what the mode needs of the magnitude."""
        zero = ir.const(0, "int8", self.chunk)
        sign = tirx.Select(k < zero, zero - inside, inside)
        size = memory.magnitude(k, "int8", self.chunk)
        if mode == DOT:
            return [sign, *self.split(T.Bind(size))]
        if mode == HAMMING:
            return [sign, tirx.bitwise_xor(size, ir.const(fmt.limit, "int8", self.chunk))]
        return [sign]

    def start(self, mode: str, keys: Sequence[Any]) -> Any:
        """See :class:`Arithmetic`: takes back the bias."""
        if mode != BINARY or not self.biased:
            return None
        zero = ir.const(0, "int8", self.chunk)
        bias = ir.const(-128, "int8", self.chunk)
        return self.dot(ir.const(0, "int32", self.lanes), bias, zero - keys[0])

    def add(self, mode: str, fmt: FixedPoint, total: Any, u: Any, keys: Sequence[Any]) -> Any:
        """See :class:`Arithmetic`."""
        if mode == BINARY:
            biased = tirx.bitwise_xor(u, ir.const(-128, "int8", self.chunk)) if self.biased else u
            return self.dot(total, biased, keys[0])
        zero = ir.const(0, "int8", self.chunk)
        sign = tirx.Select(u < zero, zero - keys[0], keys[0])
        size = T.Bind(memory.magnitude(u, "int8", self.chunk))
        if mode == HAMMING:
            return self.dot(total, tirx.bitwise_xor(size, keys[1]), sign)
        return self.dot(total, self.magnitudes(size, keys[1:], fmt), sign)


@dataclass(frozen=True)
class Wide:
    """Codes of 9 to 16 bits: every product in int32.

    Attributes:
        chunk: codes in one vector.
    """

    chunk: int
    dtype: str = "int16"

    @property
    def lanes(self) -> int:
        """See :class:`Arithmetic`."""
        return self.chunk

    def key(self, mode: str, fmt: FixedPoint, k: Any, inside: Any) -> list[Any]:
        """See :class:`Arithmetic`: the key, or its sign and its magnitude."""
        if mode == DOT:
            return [k]
        zero = ir.const(0, "int16", self.chunk)
        sign = tirx.Select(k < zero, zero - inside, inside)
        if mode == BINARY:
            return [sign]
        size = memory.magnitude(k, "int16", self.chunk)
        return [sign, tirx.bitwise_xor(size, ir.const(fmt.limit, "int16", self.chunk))]

    def start(self, mode: str, keys: Sequence[Any]) -> Any:
        """See :class:`Arithmetic`."""
        return None

    def add(self, mode: str, fmt: FixedPoint, total: Any, u: Any, keys: Sequence[Any]) -> Any:
        """See :class:`Arithmetic`."""

        def wide(value: Any) -> Any:
            return ir.cast(value, "int32", self.chunk)

        if mode == DOT:
            return total + memory.product(wide(u), wide(keys[0]), fmt, "int32", self.chunk)
        if mode == BINARY:
            return total + wide(u) * wide(keys[0])
        zero = ir.const(0, "int16", self.chunk)
        sign = tirx.Select(u < zero, zero - keys[0], keys[0])
        agreed = tirx.bitwise_xor(memory.magnitude(u, "int16", self.chunk), keys[1])
        return total + wide(agreed) * wide(sign)


def _both(lanes: int) -> Callable[[Any], list[Any]]:
    """Split magnitudes into those of even and of odd elements, the others 0, for VPMADDUBSW."""
    half, whole = ir.vector("int16", lanes // 2), ir.vector("int8", lanes)

    def split(size: Any) -> list[Any]:
        words = tirx.reinterpret(half, size)
        masks = (ir.const(mask, "int16", lanes // 2) for mask in (0x00FF, -0x100))
        return [tirx.reinterpret(whole, tirx.bitwise_and(words, mask)) for mask in masks]

    return split


def _even_odd(instruction: str, lanes: int) -> Callable[[Any, Sequence[Any], FixedPoint], Any]:
    """Return magnitudes of products by VPMADDUBSW: even and odd elements, each in 16 bits."""
    half = lanes // 2
    words = ir.vector("int16", half)

    def magnitudes(size: Any, key: Sequence[Any], fmt: FixedPoint) -> Any:
        even, odd = (_below(ir.intrinsic(words, instruction, size, k), fmt, half) for k in key)
        even = tirx.shift_right(even, ir.const(fmt.fraction, "int16", half))
        odd = tirx.shift_left(odd, ir.const(8 - fmt.fraction, "int16", half))
        high = tirx.bitwise_and(odd, ir.const(-0x100, "int16", half))
        return tirx.reinterpret(ir.vector("int8", lanes), tirx.bitwise_or(even, high))

    return magnitudes


def _below(sizes: Any, fmt: FixedPoint, lanes: int) -> Any:
    """Bound magnitudes of products, before the shift, so that they saturate behind it."""
    largest = ((fmt.limit + 1) << fmt.fraction) - 1
    if largest >= fmt.limit**2:
        return sizes
    return tirx.min(sizes, ir.const(largest, "int16", lanes))


def _widened(size: Any, key: Sequence[Any], fmt: FixedPoint) -> Any:
    """Return magnitudes of sixteen products, in 16 bits each."""
    sizes = _below(ir.cast(size, "int16", 16) * ir.cast(key[0], "int16", 16), fmt, 16)
    return ir.cast(tirx.shift_right(sizes, ir.const(fmt.fraction, "int16", 16)), "int8", 16)


def _vpdpbusd(total: Any, t: Any, s: Any) -> Any:
    unsigned = tirx.reinterpret("uint8x64", t)
    return ir.intrinsic("int32x16", "llvm.x86.avx512.vpdpbusd.512", total, unsigned, s)


def _vpmaddubsw(total: Any, t: Any, s: Any) -> Any:
    pairs = ir.intrinsic("int16x16", "llvm.x86.avx2.pmadd.ub.sw", t, s)
    ones = ir.const(1, "int16", 16)
    return total + ir.intrinsic("int32x8", "llvm.x86.avx2.pmadd.wd", pairs, ones)


def _sdot(total: Any, t: Any, s: Any) -> Any:
    return ir.intrinsic("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, t, s)


def _smull(total: Any, t: Any, s: Any) -> Any:
    """Add pairs of products in 16 bits, which two of 127 fill to less than a hundredth."""

    def half(v: Any, first: int) -> Any:
        return tirx.Shuffle([v], list(range(first, first + 8)))

    t, s = T.Bind(t), T.Bind(s)
    low, high = (
        ir.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(t, i), half(s, i))
        for i in (0, 8)
    )
    pairs = ir.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)
    return total + pairs


def _plain(total: Any, t: Any, s: Any) -> Any:
    return total + ir.cast(ir.cast(t, "int16", 16) * ir.cast(s, "int16", 16), "int32", 16)


def _single(size: Any) -> list[Any]:
    return [size]


AVX512 = Bytes(
    64, 16, _vpdpbusd, _even_odd("llvm.x86.avx512.pmaddubs.w.512", 64), _both(64), biased=True
)
AVX2 = Bytes(32, 8, _vpmaddubsw, _even_odd("llvm.x86.avx2.pmadd.ub.sw", 32), _both(32), biased=True)
NEON_DOT = Bytes(16, 4, _sdot, _widened, _single, biased=False)
NEON = Bytes(16, 4, _smull, _widened, _single, biased=False)
PLAIN = Bytes(16, 16, _plain, _widened, _single, biased=False)


def arithmetic(target: Target, dtype: str) -> Arithmetic:
    """Return the fastest arithmetic of a target for codes of ``dtype``."""
    if dtype == "int16":
        return Wide(max(4, memory.lanes_of(target, "int32")))
    for feature, found in (("vnni", AVX512), ("avx2", AVX2), ("dotprod", NEON_DOT), ("neon", NEON)):
        if feature in target.features:
            return found
    return PLAIN


def sum_rows(vectors: Sequence[Any], target: Target) -> Any:
    """Sum the lanes of each of n vectors of n int32 into the n lanes of one."""
    left, lanes = [T.Bind(v) for v in vectors], len(vectors)
    if target.arch == "aarch64":
        while len(left) > 1:
            left = [_pairwise(left[i], left[i + 1]) for i in range(0, len(left), 2)]
        return left[0]
    for low, high in _transpositions(lanes):
        left = [
            T.Bind(tirx.Shuffle([a, b], low) + tirx.Shuffle([a, b], high))
            for a, b in zip(left[0::2], left[1::2], strict=True)
        ]
    return left[0]


def _pairwise(a: Any, b: Any) -> Any:
    return T.Bind(ir.intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", a, b))


def _transpositions(lanes: int) -> list[tuple[list[int], list[int]]]:
    """Return the shuffles, two a level, of which x86 does most within 128 bits."""
    quads = range(0, lanes, 4)
    levels = [
        ([q + i for q in quads for i in (0, lanes, 1, lanes + 1)],
         [q + i for q in quads for i in (2, lanes + 2, 3, lanes + 3)]),
        ([q + i for q in quads for i in (0, 1, lanes, lanes + 1)],
         [q + i for q in quads for i in (2, 3, lanes + 2, lanes + 3)]),
    ]  # fmt: skip
    # Quads of two vectors: the lower and the upper half of each, then every other one.
    orders: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {
        4: [],
        8: [((0, 2), (1, 3))],
        16: [((0, 1, 4, 5), (2, 3, 6, 7)), ((0, 2, 4, 6), (1, 3, 5, 7))],
    }
    for order in orders[lanes]:
        low, high = ([4 * q + i for q in half for i in range(4)] for half in order)
        levels.append((low, high))
    return levels
