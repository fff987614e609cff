"""Definitions of fixed-point numbers and of the operators of a memory network on them (Q-MANN).

Numbers are sign and magnitude, as in equations 2 and 3 of Park et al., "Quantized Memory-Augmented
Neural Networks" (AAAI 2018): a code is an integer in ``[-m, m]`` and stands for
``code / 2**fraction``. What does not fit is truncated toward zero and saturated. Sums are exact and
saturated once, at their end.

``N`` is the batch, ``L`` the memory slots, ``E`` the internal dimension, ``V`` the rows of an
embedding table, ``W`` the words of a sentence.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_qnn.spec.qtype import Codes

SOFTMAX_BITS = 24
"""Fraction bits of the exponentials in :func:`fixed_softmax`."""


@dataclass(frozen=True)
class FixedPoint:
    """A fixed-point format Q(integer).(fraction) of ``1 + integer + fraction`` bits.

    Attributes:
        integer: magnitude bits before the point (IWL).
        fraction: magnitude bits behind the point (FRAC).

    Raises:
        ValueError: if a part is negative, or the bits are not 2 to 16. One bit would be a sign with
            no magnitude: binary keys are the argument ``binary`` of the operators instead.
    """

    integer: int
    fraction: int

    def __post_init__(self) -> None:
        if self.integer < 0 or self.fraction < 0 or not 2 <= self.bits <= 16:
            raise ValueError(
                f"no fixed-point format Q{self.integer}.{self.fraction}: parts of at least 0 bits "
                "and 1 to 15 bits of magnitude are needed"
            )

    @property
    def bits(self) -> int:
        """The bits of a number: sign, integer part, fraction (n in the paper)."""
        return 1 + self.integer + self.fraction

    @property
    def limit(self) -> int:
        """The largest code m, ``2**(integer + fraction) - 1``; the lowest code is ``-m``."""
        return (1 << (self.integer + self.fraction)) - 1

    @property
    def codes(self) -> Codes:
        """The codes ``[-m, m]``."""
        return Codes(-self.limit, self.limit)

    @property
    def dtype(self) -> str:
        """The dtype that stores the codes, in two's complement: int8 or int16."""
        return "int8" if self.bits <= 8 else "int16"

    def sum_fits(self, count: int) -> bool:
        """Tell whether every sum of ``count`` codes fits int32, in any order of the additions."""
        return count * self.limit < 2**31

    def __str__(self) -> str:
        return f"Q{self.integer}.{self.fraction}"


def fixed_quantize(x: ArrayLike, fmt: FixedPoint) -> NDArray[np.generic]:
    """Return the codes of real values, ``clip(truncate(x * 2**fraction), -m, m)`` (P eq. 2, 3).

    Args:
        x: finite or infinite real values of any shape; NaN becomes 0.
        fmt: the format of the result.
    """
    scaled = np.trunc(np.asarray(x, np.float64) * 2.0**fmt.fraction)
    return saturated(np.nan_to_num(np.clip(scaled, -fmt.limit, fmt.limit), nan=0.0), fmt)


def fixed_dequantize(codes: ArrayLike, fmt: FixedPoint) -> NDArray[np.float32]:
    """Return the values of codes, ``code / 2**fraction``, exact in float32."""
    return (checked(codes, fmt) / 2.0**fmt.fraction).astype(np.float32)


def fixed_convert(codes: ArrayLike, src: FixedPoint, dst: FixedPoint) -> NDArray[np.generic]:
    """Quantize the values of codes of format ``src`` in format ``dst``, any shape."""
    q, shift = checked(codes, src), dst.fraction - src.fraction
    return saturated(q << shift if shift >= 0 else shifted(q, -shift), dst)


def fixed_bag(table: ArrayLike, words: ArrayLike, fmt: FixedPoint) -> NDArray[np.generic]:
    """Embed bags of words: the sum of the rows of their words, saturated once.

    Args:
        table: codes [V, E]; row 0 is padding and holds zeros.
        words: row numbers [..., W]. A number outside of ``0..V-1`` counts as 0.
        fmt: the format of the table and of the result.

    Returns:
        Codes [..., E].
    """
    rows, index = checked(table, fmt), np.asarray(words, np.int64)
    index = np.where((index >= 0) & (index < rows.shape[0]), index, 0)
    total = np.zeros((*index.shape[:-1], rows.shape[1]), np.int64)
    for word in range(index.shape[-1]):
        total += rows[index[..., word]]
    return saturated(total, fmt)


def fixed_valid(words: ArrayLike) -> NDArray[np.bool_]:
    """Tell which slots hold a sentence: those of words [..., W] not all 0. Returns bool [...]."""
    used: NDArray[np.bool_] = (np.asarray(words) != 0).any(axis=-1)
    return used


def fixed_dense(
    w: ArrayLike, k: ArrayLike, fmt: FixedPoint, binary: bool = False
) -> NDArray[np.generic]:
    """Matrix times vector: products truncated and saturated, their exact sum saturated.

    Args:
        w: codes [O, E].
        k: codes [..., E].
        fmt: the format of all three.
        binary: take the sign of ``k`` (+1 or -1, +1 for 0) in its place.

    Returns:
        Codes [..., O].
    """
    rows, key = checked(w, fmt), checked(k, fmt)
    return saturated(products(rows, key[..., None, :], fmt, binary).sum(axis=-1), fmt)


def fixed_similarity(
    memory: ArrayLike, key: ArrayLike, fmt: FixedPoint, binary: bool = False
) -> NDArray[np.generic]:
    """Dot product of a key with every memory slot; arithmetic as in :func:`fixed_dense`.

    Args:
        memory: codes [N, L, E].
        key: codes [N, E].
        fmt: the format of all three.
        binary: take the sign of ``key`` in its place.

    Returns:
        Scores, codes [N, L].
    """
    rows, k = checked(memory, fmt), checked(key, fmt)
    return saturated(products(rows, k[:, None, :], fmt, binary).sum(axis=-1), fmt)


def hamming_shift(fmt: FixedPoint, alpha: int = -3) -> int:
    """Return the right shift that makes codes of raw Hamming sums, ``n - alpha - fraction``.

    Raises:
        ValueError: if it lies outside of 0..31.
    """
    shift = fmt.bits - alpha - fmt.fraction
    if not 0 <= shift <= 31:
        raise ValueError(f"alpha {alpha} with {fmt}: a shift of {shift} bits, 0 to 31 are possible")
    return shift


def hamming_similarity(
    memory: ArrayLike, key: ArrayLike, fmt: FixedPoint, alpha: int = -3
) -> NDArray[np.generic]:
    """Bounded similarity of a key with every memory slot (P eq. 6).

    ``sum_e s_e * sum_b 2**(b + alpha - n) * XNOR(bit b of |u_e|, bit b of |v_e|)``, where ``s_e``
    is +1 for equal signs and -1 for different ones (0 has the sign +). The inner sum over the bits
    is ``(m - (|u_e| XOR |v_e|)) * 2**(alpha - n)``. The result is truncated and saturated.

    Args:
        memory: codes [N, L, E].
        key: codes [N, E].
        fmt: the format of all three.
        alpha: exponent of the weight of the bits.

    Returns:
        Scores, codes [N, L].

    Raises:
        ValueError: if ``alpha`` leads out of the range of :func:`hamming_shift`.
    """
    u, v = checked(memory, fmt), checked(key, fmt)[:, None, :]
    sign = np.where((u < 0) == (v < 0), 1, -1)
    raw = (sign * (fmt.limit - (np.abs(u) ^ np.abs(v)))).sum(axis=-1)
    return saturated(shifted(raw, hamming_shift(fmt, alpha)), fmt)


@functools.lru_cache(maxsize=32)
def softmax_table(fmt: FixedPoint) -> NDArray[np.int64]:
    """Return ``round(2**24 * exp(-d / 2**fraction))`` for the distances d = 0..2m, int64 [2m + 1].

    No product lies so near to a tie that the last bit of an ``exp`` could matter, in no format.
    """
    distance = np.arange(2 * fmt.limit + 1) / 2.0**fmt.fraction
    table = np.rint(2.0**SOFTMAX_BITS * np.exp(-distance)).astype(np.int64)
    table.setflags(write=False)
    return table


def fixed_softmax(scores: ArrayLike, valid: ArrayLike, fmt: FixedPoint) -> NDArray[np.generic]:
    """Softmax over the valid slots, in integers, so that no order of summation matters.

    With ``e_j`` of :func:`softmax_table` at the distance of score j from the largest valid one,
    ``p_j = min(floor(e_j * 2**fraction / sum of e), m)``. Empty slots get 0; so does everything
    where no slot is valid.

    Args:
        scores: codes [N, L].
        valid: bool [N, L].
        fmt: the format of scores and probabilities.

    Returns:
        Probabilities, codes [N, L].
    """
    q, used = checked(scores, fmt), np.asarray(valid, bool)
    largest = np.where(used, q, -fmt.limit).max(axis=-1, keepdims=True, initial=-fmt.limit)
    weight = np.where(used, softmax_table(fmt)[np.where(used, largest - q, 0)], 0)
    total = np.maximum(weight.sum(axis=-1, keepdims=True), 1)
    return saturated((weight << fmt.fraction) // total, fmt)


def fixed_read(p: ArrayLike, memory: ArrayLike, fmt: FixedPoint) -> NDArray[np.generic]:
    """Weighted sum of the memory slots: products truncated, their exact sum saturated.

    Args:
        p: probabilities, codes [N, L].
        memory: codes [N, L, E].
        fmt: the format of all three.

    Returns:
        Codes [N, E].
    """
    weight, rows = checked(p, fmt), checked(memory, fmt)
    return saturated(products(rows, weight[:, :, None], fmt).sum(axis=1), fmt)


def fixed_add(a: ArrayLike, b: ArrayLike, fmt: FixedPoint) -> NDArray[np.generic]:
    """Saturated sum of two tensors of codes of one shape."""
    return saturated(checked(a, fmt) + checked(b, fmt), fmt)


def fixed_output(w: ArrayLike, k: ArrayLike, fmt: FixedPoint) -> NDArray[np.float32]:
    """Output layer, which the method leaves in float: weights times the value of the key.

    ``total = 0``, then ``total = total + w[:, e] * value(k[e])`` for ascending e in float32, each
    product and each sum rounded (no fused multiply-add).

    Args:
        w: float32 [A, E].
        k: codes [N, E].
        fmt: the format of ``k``.

    Returns:
        Logits, float32 [N, A].
    """
    rows, value = np.asarray(w, np.float32), fixed_dequantize(k, fmt)
    total = np.zeros((value.shape[0], rows.shape[0]), np.float32)
    for e in range(rows.shape[1]):
        total = total + rows[None, :, e] * value[:, e, None]
    return total


def products(
    a: NDArray[np.int64], b: NDArray[np.int64], fmt: FixedPoint, binary: bool = False
) -> NDArray[np.int64]:
    """Return ``truncate(a * b / 2**fraction)``, saturated; ``a * sign(b)`` where ``binary``."""
    if binary:
        return np.where(b >= 0, a, -a)
    return np.clip(shifted(a * b, fmt.fraction), -fmt.limit, fmt.limit)


def shifted(x: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return ``x / 2**bits`` truncated toward zero."""
    magnitude: NDArray[np.int64] = np.abs(x) >> bits
    return np.where(x < 0, -magnitude, magnitude)


def saturated(x: NDArray[np.generic], fmt: FixedPoint) -> NDArray[np.generic]:
    """Return ``x`` clipped to the codes of a format, in its dtype."""
    clipped: NDArray[np.generic] = np.clip(x, -fmt.limit, fmt.limit).astype(fmt.dtype)
    return clipped


def checked(codes: ArrayLike, fmt: FixedPoint) -> NDArray[np.int64]:
    """Return codes as int64.

    Raises:
        ValueError: if one is no code of the format.
    """
    q = np.asarray(codes).astype(np.int64)
    if not fmt.codes.contains(q):
        worst = q.reshape(-1)[np.abs(q).argmax()]
        raise ValueError(f"{worst} is no code of {fmt}, whose codes are {fmt.codes}")
    return q
