"""Weights of 1, 2 or 4 bits that become bytes in the registers of a GPU only.

A stored word has the indices of several words of weights, its sets: each byte has one code of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_qnn._tvm import te, tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.algebra import Digits, index_digits
from tvm_qnn.schedules.prepare import weight_digit

WIDTHS = (1, 2, 4)
"""Bits in which a code may be stored."""


@dataclass(frozen=True)
class Unpacking:
    """How stored words become bytes: ``index * mult + base``.

    Attributes:
        bits: of an index.
        mult: at most 8.
        base: of bytes that are signed.
    """

    bits: int
    mult: int
    base: int

    @classmethod
    def of(cls, digits: Digits, steps: int, together: int) -> Unpacking | None:
        """Return the narrowest one.

        Args:
            digits: of the weights.
            steps: words of an image row.
            together: of them that belong together; their sets must come out even.

        Returns:
            None where none fits.
        """
        if digits.mult * (digits.codes.count - 1) > 127:
            return None
        for bits in WIDTHS:
            if digits.codes.bits <= bits and steps % (together * (8 // bits)) == 0:
                return cls(bits, digits.mult, digits.base)
        return None

    @property
    def name(self) -> str:
        """Tells apart what has other parameters."""
        return f"{self.bits}_{self.mult}_{self.base}".replace("-", "n")

    @property
    def sets(self) -> int:
        """Words that a stored word becomes."""
        return 8 // self.bits

    def apply(self, word: Any, part: Any) -> Any:
        """Return word ``part`` of those that a stored word has."""
        shift = ir.cast(part * self.bits, "uint32")
        value = tirx.bitwise_and(tirx.shift_right(word, shift), _everywhere(2**self.bits - 1))
        if self.mult != 1:
            value = value * tirx.const(self.mult, "uint32")
        if self.base >= 0:
            return value + _everywhere(self.base)
        # The eighth bit is free, and keeps bytes from borrowing of each other.
        high = _everywhere(128)
        moved = tirx.bitwise_or(value, high) - _everywhere(-self.base)
        return tirx.bitwise_xor(moved, high)

    def stored(
        self, work: ConvWork, indices: Any, o: Any, place: Callable[[Any], tuple[Any, Any, Any]]
    ) -> Any:
        """Return a stored word as a tensor expression.

        Args:
            work: the convolution.
            indices: of its weights, OHWI.
            o: output channel.
            place: from a set to kernel row, kernel column and word of channels.
        """
        part, byte = te.reduce_axis((0, self.sets), "part"), te.reduce_axis((0, 4), "byte")
        i, j, word = place(part)
        plain = index_digits(work.w, work.w_zero)
        index = weight_digit(indices, plain, "int32", o, i, j, word * 4 + byte)
        shift = (byte * 8 + part * self.bits).astype("uint32")
        return te.sum(index.astype("uint32") << shift, axis=[part, byte])


def _everywhere(value: int) -> Any:
    """Return a word with a value in each byte."""
    return tirx.const(value * 0x01010101, "uint32")
