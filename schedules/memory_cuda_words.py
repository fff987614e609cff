"""How a GPU compares codes with a key: a word of 32 bits at a time.

Codes of up to 8 bits go by fours, as sign and magnitude (see :mod:`memory_arithmetic`), and dp4a
adds up; wider ones go by twos, each for itself. What a word of the key contributes is worked out
once, in some words of its own; beyond the end of a key they are 0, and so are the codes of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir, memory
from tvm_qnn.schedules.cuda_code import dp4a
from tvm_qnn.schedules.memory_work import BINARY, DOT, HAMMING
from tvm_qnn.spec import FixedPoint


class Words(Protocol):
    """Sums over the words of a row."""

    codes: ClassVar[int]
    """In a word."""

    def parts(self, mode: str) -> int:
        """Return the words that a word of the key is brought into."""

    def key(self, mode: str, fmt: FixedPoint, codes: Sequence[Any], inside: Sequence[Any]) -> Any:
        """Return those words.

        Args:
            mode: what is summed.
            fmt: format of the codes.
            codes: of the key, int32, 0 beyond its end.
            inside: whether each is a code of the key.
        """

    def add(self, mode: str, fmt: FixedPoint, total: Any, x: Any, key: Sequence[Any]) -> Any:
        """Return an int32 sum with one word ``x`` of a row added."""


class Fours:
    """Codes of up to 8 bits."""

    codes: ClassVar[int] = 4

    def parts(self, mode: str) -> int:
        """See :class:`Words`: the signs, then what the mode needs of the magnitudes."""
        return {BINARY: 1, HAMMING: 2, DOT: 5}[mode]

    def key(self, mode: str, fmt: FixedPoint, codes: Sequence[Any], inside: Sequence[Any]) -> Any:
        """See :class:`Words`."""
        signs = pack([_sign(c) for c in codes], 8)
        sizes = [memory.magnitude(c, "int32", 1) for c in codes]
        if mode == HAMMING:
            return [signs, pack(_agreeing(sizes, inside, fmt), 8)]
        if mode == DOT:
            # The magnitude of a product is then its second byte.
            scaled = [(size << (8 - fmt.fraction)).astype("uint32") for size in sizes]
            return [signs, *scaled]
        return [signs]

    def add(self, mode: str, fmt: FixedPoint, total: Any, x: Any, key: Sequence[Any]) -> Any:
        """See :class:`Words`."""
        if mode == BINARY:
            return dp4a(x, key[0], total, signed=True)
        ones = T.Bind(tirx.bitwise_and(tirx.shift_right(x, _word(7)), _word(0x01010101)))
        negative = T.Bind(ones * _word(255))
        # Of a code in [-127, 127] and of a sign no byte overflows into the next.
        size = T.Bind(tirx.bitwise_xor(x, negative) + ones)
        signs = tirx.bitwise_xor(key[0], negative) + ones
        if mode == HAMMING:
            return dp4a(tirx.bitwise_xor(size, key[1]), signs, total, signed=True)
        return dp4a(self._products(fmt, size, key[1:]), signs, total, signed=True)

    @staticmethod
    def _products(fmt: FixedPoint, size: Any, key: Sequence[Any]) -> Any:
        """Return the magnitudes of four products, truncated and saturated."""
        most = ((fmt.limit + 1) << 8) - 1
        saturates = fmt.limit**2 << (8 - fmt.fraction) > most
        found = None
        for i, scaled in enumerate(key):
            product = tirx.bitwise_and(tirx.shift_right(size, _word(8 * i)), _word(255)) * scaled
            if saturates:
                product = tirx.min(product, _word(most))
            byte = tirx.bitwise_and(product, _word(0xFF00))
            byte = (
                tirx.shift_left(byte, _word(8 * i - 8)) if i else tirx.shift_right(byte, _word(8))
            )
            found = byte if found is None else tirx.bitwise_or(found, byte)
        return T.Bind(found)


class Twos:
    """Codes of 9 to 16 bits: every product in int32."""

    codes: ClassVar[int] = 2

    def parts(self, mode: str) -> int:
        """See :class:`Words`: the key, or its signs and then its magnitudes."""
        return 2 if mode == HAMMING else 1

    def key(self, mode: str, fmt: FixedPoint, codes: Sequence[Any], inside: Sequence[Any]) -> Any:
        """See :class:`Words`."""
        if mode == DOT:
            return [pack(codes, 16)]
        signs = pack([_sign(c) for c in codes], 16)
        if mode == BINARY:
            return [signs]
        sizes = [memory.magnitude(c, "int32", 1) for c in codes]
        return [signs, pack(_agreeing(sizes, inside, fmt), 16)]

    def add(self, mode: str, fmt: FixedPoint, total: Any, x: Any, key: Sequence[Any]) -> Any:
        """See :class:`Words`."""
        for i in range(self.codes):
            code, first = T.Bind(_half(x, i)), _half(key[0], i)
            if mode == DOT:
                total = total + memory.product(code, first, fmt, "int32", 1)
            elif mode == BINARY:
                total = total + code * first
            else:
                agreed = tirx.bitwise_xor(memory.magnitude(code, "int32", 1), _half(key[1], i))
                total = total + tirx.Select(code < 0, 0 - agreed, agreed) * first
        return total


def words_of(dtype: str) -> Words:
    """Return how codes of a dtype are compared."""
    return Fours() if dtype == "int8" else Twos()


def _word(value: int) -> Any:
    return tirx.const(value, "uint32")


def _sign(code: Any) -> Any:
    return tirx.Select(code < 0, tirx.const(-1, "int32"), tirx.const(1, "int32"))


def _agreeing(sizes: Sequence[Any], inside: Sequence[Any], fmt: FixedPoint) -> list[Any]:
    """Return what magnitudes are to be XORed with to count the bits that agree."""
    zero = tirx.const(0, "int32")
    return [
        tirx.Select(within, tirx.bitwise_xor(size, tirx.const(fmt.limit, "int32")), zero)
        for size, within in zip(sizes, inside, strict=True)
    ]


def pack(values: Sequence[Any], bits: int) -> Any:
    """Put int32 values beside each other into a word."""
    found = _word(0)
    for i, value in enumerate(values):
        low = tirx.bitwise_and(value, tirx.const((1 << bits) - 1, "int32")).astype("uint32")
        found = tirx.bitwise_or(found, tirx.shift_left(low, _word(bits * i)))
    return found


def _half(word: Any, i: int) -> Any:
    """Return half ``i`` of a word as a signed integer."""
    top = ir.wrapped(tirx.shift_left(word, _word(16 - 16 * i)), "int32")
    return tirx.shift_right(top, tirx.const(16, "int32"))
