"""What a quantized tensor means: integer codes and the real values that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Codes:
    """The integers that a quantized tensor may hold: ``lo, lo + step, ..., hi``.

    ``step`` is 1 for ordinary quantizers. Bipolar data {-1, +1} is ``Codes(-1, 1, step=2)``, the
    symmetric quantizer {-3, -1, 1, 3} is ``Codes(-3, 3, step=2)``.

    Raises:
        ValueError: if the range is empty or ``hi - lo`` is not a multiple of ``step``.
    """

    lo: int
    hi: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or self.hi < self.lo or (self.hi - self.lo) % self.step:
            raise ValueError(f"no codes in [{self.lo}, {self.hi}] with step {self.step}")

    @property
    def count(self) -> int:
        """The number of different codes (M, the number of states)."""
        return (self.hi - self.lo) // self.step + 1

    @property
    def bits(self) -> int:
        """The bits of one packed code, ``ceil(log2(count))`` and at least 1."""
        return max(1, (self.count - 1).bit_length())

    @property
    def dtype(self) -> str:
        """The smallest dtype that stores the codes: uint8, int8, uint16, int16 or int32."""
        for dtype in ("uint8", "int8", "uint16", "int16"):
            info = np.iinfo(dtype)
            if info.min <= self.lo and self.hi <= info.max:
                return dtype
        return "int32"

    def index(self, codes: ArrayLike) -> NDArray[np.int64]:
        """Number the codes from 0: ``(codes - lo) / step``. This is what bit planes hold."""
        return (np.asarray(codes, np.int64) - self.lo) // self.step

    def from_index(self, index: ArrayLike) -> NDArray[np.int64]:
        """Undo :meth:`index`."""
        return np.asarray(index, np.int64) * self.step + self.lo

    def contains(self, codes: ArrayLike) -> bool:
        """Tell whether every element of ``codes`` is one of these codes."""
        q = np.asarray(codes, np.int64)
        return bool(((q >= self.lo) & (q <= self.hi) & ((q - self.lo) % self.step == 0)).all())

    def __str__(self) -> str:
        by = f":{self.step}" if self.step != 1 else ""
        return f"[{self.lo}..{self.hi}{by}]"


@dataclass(frozen=True)
class QType:
    """How codes stand for real values, ``scale * (code - zero)`` or ``codebook[code]``.

    Attributes:
        codes: the integer range.
        scale: positive finite float32 scales, one for the tensor or one per index of ``axis``.
        zero: zero points, one for the tensor or one per index of ``axis``; they need not lie in the
            range of the codes (bipolar data has zero point 0).
        axis: the axis that ``scale``, ``zero`` or the rows of ``codebook`` follow; None means one
            for the whole tensor.
        codebook: representation values (float32) for codes 0..M-1, one row for the tensor or one
            per index of ``axis``; ``scale`` and ``zero`` are then 1 and 0.

    Raises:
        ValueError: for scales that are not positive and finite, or sizes that do not fit together.
    """

    codes: Codes
    scale: tuple[float, ...] = (1.0,)
    zero: tuple[int, ...] = (0,)
    axis: int | None = None
    codebook: tuple[tuple[float, ...], ...] | None = field(default=None)

    def __post_init__(self) -> None:
        if not all(math.isfinite(s) and s > 0 for s in self.scale):
            bad = next(s for s in self.scale if not (math.isfinite(s) and s > 0))
            raise ValueError(f"scale must be positive and finite, found {bad}")
        sizes = {len(self.scale), len(self.zero)} - {1}
        if self.codebook is not None:
            sizes |= {len(self.codebook)} - {1}
            if self.codes.lo != 0 or self.codes.step != 1:
                raise ValueError("codes of a codebook count from 0")
            if any(len(row) != self.codes.count for row in self.codebook):
                raise ValueError(f"a codebook row needs {self.codes.count} values, one a code")
            if not all(math.isfinite(v) for row in self.codebook for v in row):
                raise ValueError("codebook values must be finite")
        if len(sizes) > 1 or (sizes and self.axis is None):
            raise ValueError(f"per-axis parameters of sizes {sorted(sizes)} with axis {self.axis}")

    @classmethod
    def of_arrays(
        cls, codes: Codes, scale: ArrayLike, zero: ArrayLike, axis: int | None = None
    ) -> QType:
        """Return the type whose scales and zero points are arrays, scalar or along ``axis``."""
        return cls(
            codes,
            tuple(np.asarray(scale).reshape(-1).astype(float).tolist()),
            tuple(np.asarray(zero).reshape(-1).astype(int).tolist()),
            axis,
        )

    @property
    def bits(self) -> int:
        """The bits of one packed code."""
        return self.codes.bits

    @property
    def per_axis(self) -> bool:
        """Whether any parameter varies along ``axis``."""
        return self.axis is not None

    def quantize(self, x: ArrayLike) -> NDArray[np.generic]:
        """Return the codes of ``x``; see :func:`tvm_qnn.spec.quantize`."""
        from tvm_qnn.spec.convert import quantize

        return quantize(x, self)

    def dequantize(self, q: ArrayLike) -> NDArray[np.float32]:
        """Return the values of ``q``; see :func:`tvm_qnn.spec.dequantize`."""
        from tvm_qnn.spec.convert import dequantize

        return dequantize(q, self)

    def __str__(self) -> str:
        if self.codebook is not None:
            return f"codebook of {self.codes.count}"
        zero = "" if set(self.zero) == {0} else f", zero {self.zero[0]}"
        return f"{self.bits} bit {self.codes}{zero}"
