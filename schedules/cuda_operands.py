"""What a word of 32 bits is to the kernels for CUDA: bits of one plane, or four bytes.

Kernels read activations by words, a group of neighbouring ones at once, and know of operands only
what is here: how words are read, how weights are packed into words, and what their products are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda_code, ir, stages
from tvm_qnn.schedules.algebra import Digits, fitting_digits, index_digits, kept_digits
from tvm_qnn.schedules.bitserial import MOST_PAIRS, planes_of, weight_digits
from tvm_qnn.schedules.bitserial_x86 import horner
from tvm_qnn.schedules.plan import WORD, ceil_div
from tvm_qnn.schedules.prepare import byte_word, plane_word

_BYTES = 4
_DTYPES = {"u8": "uint8", "s8": "int8"}


@dataclass(frozen=True)
class Words:
    """The activations of a kernel.

    Attributes:
        buffer: uint32 [N, H, W, parts, words], without parts where there is one.
        outside: from a part to the word of a tap outside of the image.
        fill: digit of such a tap.
        pixel_sum: the sum of the digits of a pixel, a term from (n, h, w, group, reduction).
        extents: of the reduction of ``pixel_sum``.
    """

    buffer: Any
    outside: Callable[[Any], Any]
    fill: int
    pixel_sum: Callable[..., Any]
    extents: tuple[int, ...]

    def place(self, place: Sequence[Any], part: Any) -> tuple[Any, ...]:
        """Return where the words of a position (n, h, w) are."""
        return (*place, part) if len(self.buffer.shape) == 5 else tuple(place)

    def read(self, place: Sequence[Any], part: Any, first: Any, count: int) -> Any:
        """Return some words of a position."""
        return self.buffer[(*self.place(place, part), ir.lanes_at(first, count))]


class Operands(ABC):
    """What words are.

    Attributes:
        granule: input channels of a word.
    """

    granule: ClassVar[int]

    @abstractmethod
    def refuse(self, work: ConvWork) -> tuple[str, str] | None:
        """Return why the codes do not fit, and what would help, or None."""

    @abstractmethod
    def digits(self, work: ConvWork) -> tuple[Digits, Digits]:
        """Return how activations and weights are stored."""

    @abstractmethod
    def parts(self, work: ConvWork) -> tuple[int, int]:
        """Return how many words stand for the same channels of activations and of weights."""

    def weighed(self, work: ConvWork, total: Any, x: Any, w: Any) -> Any:
        """Return the sum of products of part ``x`` and part ``w`` times its factor."""
        return total

    @abstractmethod
    def stages(self, work: ConvWork) -> int:
        """Return how many kernels bring activations into words."""

    @abstractmethod
    def kind(self, work: ConvWork) -> str:
        """Return what words hold, as tensor cores call it."""

    @abstractmethod
    def words(self, work: ConvWork, x: Any, fill: int) -> Words:
        """Write the blocks that bring activations into words; ``fill`` is the digit outside."""

    @abstractmethod
    def weight(
        self, work: ConvWork, indices: Any, part: Any, o: Any, i: Any, j: Any, word: Any
    ) -> Any:
        """Return a word of weights as a tensor expression."""


class CoreOperands(Operands):
    """What CUDA cores multiply as well."""

    @abstractmethod
    def update(self, work: ConvWork, x: list[Any], w: list[Any], acc: Any) -> Any:
        """Return a sum and the products of all parts of one word."""


class Bits(CoreOperands):
    """Bit planes: of indices of activations, of digits of weights."""

    granule = WORD

    def refuse(self, work: ConvWork) -> tuple[str, str] | None:
        """See :class:`Operands`."""
        pairs = work.x.bits * planes_of(weight_digits(work))
        if pairs > MOST_PAIRS:
            return f"{pairs} products of bit planes", f"at most {MOST_PAIRS}; others take bytes"
        return None

    def digits(self, work: ConvWork) -> tuple[Digits, Digits]:
        """See :class:`Operands`."""
        return index_digits(work.x, (work.x_zero,)), weight_digits(work)

    def parts(self, work: ConvWork) -> tuple[int, int]:
        """See :class:`Operands`."""
        return work.x.bits, planes_of(weight_digits(work))

    def weighed(self, work: ConvWork, total: Any, x: Any, w: Any) -> Any:
        """See :class:`Operands`: the last plane of negative digits counts negative."""
        digits = weight_digits(work)
        total = tirx.shift_left(total, ir.cast(x + w, "int32"))
        if digits.lo >= 0:
            return total
        return tirx.Select(w == planes_of(digits) - 1, 0 - total, total)

    def stages(self, work: ConvWork) -> int:
        """See :class:`Operands`."""
        return 0 if work.x_planes else 1

    def kind(self, work: ConvWork) -> str:
        """See :class:`Operands`."""
        return "b1"

    def words(self, work: ConvWork, x: Any, fill: int) -> Words:
        """See :class:`Operands`."""
        planes = x if work.x_planes else _pack_input(x, work, self.digits(work)[0])
        full, none = tirx.const(2**WORD - 1, "uint32"), tirx.const(0, "uint32")

        def outside(part: Any) -> Any:
            bit = tirx.bitwise_and(tirx.shift_right(tirx.const(fill, "int32"), part), 1)
            return tirx.Select(bit != 0, full, none)

        def ones(n: Any, h: Any, w: Any, _: Any, k: Any) -> Any:
            total: Any = 0
            for p in range(work.x.bits):
                total = total + ir.cast(tirx.popcount(planes[n, h, w, p, k]), "int32") * 2**p
            return total

        return Words(planes, outside, fill, ones, (ceil_div(work.in_channels, WORD),))

    def weight(
        self, work: ConvWork, indices: Any, part: Any, o: Any, i: Any, j: Any, word: Any
    ) -> Any:
        """See :class:`Operands`."""
        return plane_word(indices, weight_digits(work), part, o, i, j, word)

    def update(self, work: ConvWork, x: list[Any], w: list[Any], acc: Any) -> Any:
        """See :class:`CoreOperands`."""
        return acc + horner(x, w, signed=weight_digits(work).lo < 0, lanes=1)


class Fitted(Operands):
    """Words of codes of a few bits each: signed or unsigned ones of activations, signed weights.

    Attributes:
        types: kind, smallest and largest digit of unsigned and of signed activations.
        width: what such a code is called, for messages.
        instead: what helps where codes do not fit.
    """

    types: ClassVar[tuple[tuple[str, int, int], tuple[str, int, int]]]
    width: ClassVar[str]
    instead: ClassVar[str]

    def refuse(self, work: ConvWork) -> tuple[str, str] | None:
        """See :class:`Operands`."""
        if work.x_planes:
            return "activations come as bit planes", "hand over codes"
        if self._fit(work) is None:
            return f"codes {work.x} and {work.w} do not fit {self.width}", self.instead
        return None

    def _fit(self, work: ConvWork) -> tuple[str, Digits, Digits] | None:
        """Return the kind of activation digits, and both digits."""
        unsigned, signed = self.types
        w = fitting_digits(work.w, work.w_zero, *signed[1:])
        for kind, low, high in (unsigned, signed) if work.x.lo >= 0 else (signed, unsigned):
            x = kept_digits(work.x, work.x_zero, low, high)
            if x is not None and w is not None:
                return kind, x, w
        return None

    def _fitted(self, work: ConvWork) -> tuple[str, Digits, Digits]:
        found = self._fit(work)
        assert found is not None
        return found

    def digits(self, work: ConvWork) -> tuple[Digits, Digits]:
        """See :class:`Operands`."""
        return self._fitted(work)[1:]

    def parts(self, work: ConvWork) -> tuple[int, int]:
        """See :class:`Operands`."""
        return 1, 1

    def kind(self, work: ConvWork) -> str:
        """See :class:`Operands`."""
        return self._fitted(work)[0]


class Bytes(Fitted, CoreOperands):
    """Bytes: signed or unsigned ones of activations, signed ones of weights."""

    granule = _BYTES
    types = (("u8", 0, 255), ("s8", -128, 127))
    width, instead = "a byte", "at most 8 bits"

    def __init__(self, align: int = _BYTES) -> None:
        """Take channels of which a multiple of ``align`` is stored."""
        self._align = align

    def stages(self, work: ConvWork) -> int:
        """See :class:`Operands`."""
        return 1 if self._converts(work) else 0

    def _converts(self, work: ConvWork) -> bool:
        """Tell whether codes are no words of digits yet."""
        kind, digits, _ = self._fitted(work)
        dtype = _DTYPES[kind]
        return bool(work.in_channels % self._align) or not digits.identity or work.x.dtype != dtype

    def words(self, work: ConvWork, x: Any, fill: int) -> Words:
        """See :class:`Operands`."""
        kind, digits, _ = self._fitted(work)
        if self._converts(work):
            x = _digits_of_input(x, work, digits, _DTYPES[kind], self._align)

        shape = [int(d) for d in x.shape]
        view = ir.view(x, (*shape[:-1], shape[-1] // _BYTES), "uint32")

        def value(n: Any, h: Any, w: Any, _: Any, c: Any) -> Any:
            return ir.cast(x[n, h, w, c], "int32")

        outside = tirx.const(fill % 256 * 0x01010101, "uint32")
        return Words(view, lambda _: outside, fill, value, (work.in_channels,))

    def weight(
        self, work: ConvWork, indices: Any, part: Any, o: Any, i: Any, j: Any, word: Any
    ) -> Any:
        """See :class:`Operands`."""
        return byte_word(indices, self._fitted(work)[2], o, i, j, word)

    def update(self, work: ConvWork, x: list[Any], w: list[Any], acc: Any) -> Any:
        """See :class:`CoreOperands`."""
        return cuda_code.dp4a(x[0], w[0], acc, signed=self.kind(work) == "s8")


def _pack_input(x: Any, work: ConvWork, digits: Digits) -> Any:
    """Pack codes [N, H, W, C] into bit planes [N, H, W, bits, words] of their indices."""
    words = ceil_div(work.in_channels, WORD)
    planes = ir.alloc((work.batch, work.height, work.width, work.x.bits, words), "uint32")
    with ir.stage("pack_input", (work.batch, work.height, work.width, words)) as (n, h, w, k):

        def index(i: int) -> Any:
            c = k * WORD + i
            if work.in_channels % WORD == 0:
                return stages.digit_of(x[n, h, w, c], digits, "int32")
            read = stages.digit_of(x[n, h, w, tirx.min(c, work.in_channels - 1)], digits, "int32")
            return tirx.Select(c < work.in_channels, read, tirx.const(0, "int32"))

        indices = [index(i) for i in range(WORD)]
        for p in range(work.x.bits):
            ir.store(planes, stages.pack_scalars(indices, p), n, h, w, p, k)
    return planes


def _digits_of_input(x: Any, work: ConvWork, digits: Digits, dtype: str, align: int) -> Any:
    """Store codes [N, H, W, C] as digits of ``align`` channels at a time; further ones are 0."""
    channels = ceil_div(work.in_channels, align) * align
    shape = (work.batch, work.height, work.width, channels)
    stored = ir.alloc(shape, dtype)
    with ir.stage("digits", shape) as (n, h, w, c):
        digit = stages.digit_of(x[n, h, w, tirx.min(c, work.in_channels - 1)], digits, dtype)
        if channels != work.in_channels:
            digit = tirx.Select(c < work.in_channels, digit, tirx.const(0, dtype))
        ir.store(stored, digit, n, h, w, c)
    return stored
