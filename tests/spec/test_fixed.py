"""Fixed-point operators against the formulas of the paper in exact rational arithmetic."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from tvm_qnn import spec
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import SOFTMAX_BITS, checked, hamming_shift, softmax_table

FORMATS = [
    FixedPoint(*parts)
    for parts in [(2, 5), (5, 2), (3, 4), (1, 6), (0, 7), (7, 0), (0, 1), (1, 0), (0, 15), (15, 0),
                  (5, 7), (4, 4)]
]  # fmt: skip


def q(x, fmt):
    """Quantize one rational number, equations 2 and 3 of the paper."""
    return max(-fmt.limit, min(fmt.limit, math.trunc(x * 2**fmt.fraction)))


def value(code, fmt):
    return Fraction(int(code), 2**fmt.fraction)


def codes(fmt, rng, shape):
    """Random codes with the extreme ones among them."""
    picked = rng.integers(-fmt.limit, fmt.limit + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([-fmt.limit, 0, fmt.limit], shape), picked)


def rng_of(fmt, salt=0):
    return np.random.default_rng([fmt.integer, fmt.fraction, salt])


@pytest.mark.parametrize("parts", [(-1, 8), (8, -1), (0, 0), (16, 0), (8, 8)])
def test_impossible_formats_are_refused(parts):
    with pytest.raises(ValueError, match="no fixed-point format"):
        FixedPoint(*parts)


def test_a_format_has_as_many_negative_codes_as_positive_ones():
    fmt = FixedPoint(2, 5)
    assert (fmt.bits, fmt.limit, fmt.dtype, str(fmt)) == (8, 127, "int8", "Q2.5")
    assert fmt.codes == spec.Codes(-127, 127)
    assert (FixedPoint(2, 6).dtype, FixedPoint(2, 6).limit) == ("int16", 255)


def test_sums_fit_int32_up_to_the_last_code():
    fmt = FixedPoint(0, 15)
    assert fmt.sum_fits(65538)
    assert not fmt.sum_fits(65539)
    assert FixedPoint(2, 5).sum_fits(100_000)


def test_quantize_truncates_toward_zero_and_saturates():
    x = [0.99, -0.99, 0.03125, -0.0312, 3.96875, 4.0, -4.0, 1e30, -np.inf, np.nan, -0.0]
    assert spec.fixed_quantize(x, FixedPoint(2, 5)).tolist() == [
        31, -31, 1, 0, 127, 127, -127, 127, -127, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_values_and_codes_are_each_other_s_inverse(fmt):
    every = np.arange(-fmt.limit, fmt.limit + 1)
    values = spec.fixed_dequantize(every, fmt)
    assert values.dtype == np.float32
    assert [Fraction(float(v)) for v in values[:9]] == [value(c, fmt) for c in every[:9]]
    back = spec.fixed_quantize(values, fmt)
    assert back.dtype == fmt.dtype
    assert (back == every).all()


@pytest.mark.parametrize("dst", FORMATS, ids=str)
@pytest.mark.parametrize("src", FORMATS, ids=str)
def test_convert_quantizes_the_value(src, dst):
    every = np.unique(np.linspace(-src.limit, src.limit, 400).astype(np.int64))
    got = spec.fixed_convert(every, src, dst)
    assert got.dtype == dst.dtype
    assert got.tolist() == [q(value(c, src), dst) for c in every]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_bag_sums_rows_and_saturates_once(fmt):
    rng = rng_of(fmt)
    table = codes(fmt, rng, (9, 4))
    table[0] = 0
    words = rng.integers(0, 9, (2, 3, 5))
    got = spec.fixed_bag(table, words, fmt)
    assert got.dtype == fmt.dtype
    for n, slot, e in np.ndindex(got.shape):
        total = sum(value(table[w, e], fmt) for w in words[n, slot])
        assert got[n, slot, e] == q(total, fmt)


def test_words_outside_of_the_table_count_as_padding():
    table = np.array([[0, 0], [1, 2], [10, 20]])
    words = np.array([[1, 2], [1, 3], [-1, 2], [2**31 - 1, -(2**31)], [0, 0]], np.int32)
    fmt = FixedPoint(2, 5)
    assert spec.fixed_bag(table, words, fmt).tolist() == [
        [11, 22], [1, 2], [10, 20], [0, 0], [0, 0],
    ]  # fmt: skip
    assert spec.fixed_bag(table, np.zeros((3, 0), int), fmt).tolist() == [[0, 0]] * 3


def test_valid_slots_hold_a_word():
    assert spec.fixed_valid(np.array([[[0, 0], [0, 4], [-1, 0]]])).tolist() == [[False, True, True]]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_dense_similarity_and_read_truncate_each_product(fmt, binary):
    rng = rng_of(fmt, 1)
    memory, key, w = codes(fmt, rng, (2, 5, 7)), codes(fmt, rng, (2, 7)), codes(fmt, rng, (3, 7))
    p = codes(fmt, rng, (2, 5))

    def dot(a, b, sign=False):
        if sign:
            b = [(1 if c >= 0 else -1) * 2**fmt.fraction for c in b]
        parts = [q(value(x, fmt) * value(y, fmt), fmt) for x, y in zip(a, b, strict=True)]
        return q(sum(value(c, fmt) for c in parts), fmt)

    scores = spec.fixed_similarity(memory, key, fmt, binary)
    assert scores.dtype == fmt.dtype
    assert scores.tolist() == [[dot(row, key[n], binary) for row in memory[n]] for n in range(2)]
    u = spec.fixed_dense(w, key, fmt, binary)
    assert u.tolist() == [[dot(row, key[n], binary) for row in w] for n in range(2)]
    r = spec.fixed_read(p, memory, fmt)
    assert r.tolist() == [[dot(memory[n, :, e], p[n]) for e in range(7)] for n in range(2)]


def test_a_binary_key_counts_zero_as_positive():
    got = spec.fixed_dense([[5, 7]], [[0, -1]], FixedPoint(2, 5), binary=True)
    assert got.tolist() == [[-2]]


@pytest.mark.parametrize("alpha", [-3, 0, -7])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_hamming_similarity_counts_equal_bits(fmt, alpha):
    """Equation 6, bit by bit."""
    rng = rng_of(fmt, 2)
    memory, key = codes(fmt, rng, (2, 4, 9)), codes(fmt, rng, (2, 9))
    got = spec.hamming_similarity(memory, key, fmt, alpha)
    assert got.dtype == fmt.dtype
    for n, slot in np.ndindex(got.shape):
        total = Fraction(0)
        for u, v in zip(memory[n, slot], key[n], strict=True):
            sign = 1 if (u < 0) == (v < 0) else -1
            for k in range(fmt.bits - 1):
                equal = (abs(int(u)) >> k & 1) == (abs(int(v)) >> k & 1)
                total += sign * equal * Fraction(2) ** (k + alpha - fmt.bits)
        assert got[n, slot] == q(total, fmt)


def test_hamming_similarity_of_60_elements_cannot_saturate_q2_5():
    fmt = FixedPoint(2, 5)
    ones = np.ones((1, 1, 60), int)
    assert spec.hamming_similarity(ones, ones[:, 0], fmt).tolist() == [[60 * 127 // 64]]
    assert spec.hamming_similarity(-ones, ones[:, 0], fmt).tolist() == [[-(60 * 127 // 64)]]


def test_alpha_beyond_the_shifts_is_refused():
    assert hamming_shift(FixedPoint(2, 5), 3) == 0
    with pytest.raises(ValueError, match="0 to 31"):
        hamming_shift(FixedPoint(2, 5), 4)
    with pytest.raises(ValueError, match="alpha -29"):
        hamming_shift(FixedPoint(2, 5), -29)


@pytest.mark.parametrize("fraction", range(16))
def test_softmax_tables_do_not_depend_on_the_exp_of_the_machine(fraction):
    """The distance to the next tie is far above the error of any double precision exp."""
    for integer in {max(0, 1 - fraction), 15 - fraction}:
        fmt = FixedPoint(integer, fraction)
        distance = np.arange(2 * fmt.limit + 1) / 2.0**fraction
        exact = 2.0**SOFTMAX_BITS * np.exp(-distance)
        tie = np.abs(exact - np.floor(exact) - 0.5)
        assert (tie > 4 * exact * 2.0**-52).all()
        table = softmax_table(fmt)
        assert len(table) == 2 * fmt.limit + 1
        with localcontext() as context:
            context.prec = 40
            for d in {0, 1, len(table) // 2, len(table) - 1}:
                whole = (Decimal(-d) / 2**fraction).exp() * 2**SOFTMAX_BITS
                assert table[d] == int(whole.to_integral_value())


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_softmax_floors_the_exact_quotient(fmt):
    rng = rng_of(fmt, 3)
    scores = codes(fmt, rng, (6, 11))
    scores[0] = fmt.limit
    scores[1] = -fmt.limit
    valid = rng.random((6, 11)) < 0.7
    valid[2], valid[3] = False, np.arange(11) == 4
    got = spec.fixed_softmax(scores, valid, fmt)
    assert got.dtype == fmt.dtype
    table = softmax_table(fmt)
    for n in range(6):
        slots = np.flatnonzero(valid[n])
        expected = [0] * 11
        for j in slots:
            best = max(scores[n, slots])
            e = [int(table[best - scores[n, i]]) for i in slots]
            own = int(table[best - scores[n, j]])
            expected[j] = q(Fraction(own, sum(e)), fmt)
        assert got[n].tolist() == expected
    assert got[2].tolist() == [0] * 11
    assert got[3].tolist() == [min(2**fmt.fraction, fmt.limit) * (j == 4) for j in range(11)]


def test_an_empty_memory_reads_zeros():
    fmt = FixedPoint(2, 5)
    nothing = np.zeros((2, 0), int)
    p = spec.fixed_softmax(nothing, nothing.astype(bool), fmt)
    assert p.shape == (2, 0)
    assert spec.fixed_read(p, np.zeros((2, 0, 3), int), fmt).tolist() == [[0] * 3] * 2
    assert spec.fixed_similarity(np.zeros((2, 0, 3), int), np.ones((2, 3), int), fmt).shape == (
        2,
        0,
    )


def test_softmax_over_a_hundred_thousand_slots():
    fmt = FixedPoint(2, 5)
    scores = np.zeros((1, 100_000), np.int8)
    scores[0, 77_777] = 127
    p = spec.fixed_softmax(scores, np.ones_like(scores, bool), fmt)
    # exp(127 / 32) against 99,999 slots of exp(0): less than one 32nd.
    assert p.max() == 0
    valid = np.zeros_like(scores, bool)
    valid[0, [0, 77_777]] = True
    p = spec.fixed_softmax(scores, valid, fmt)
    assert (p[0, 77_777], p.sum()) == (31, 31)


def test_add_saturates():
    fmt = FixedPoint(1, 1)
    assert spec.fixed_add([3, -3, 2, 1], [3, -1, -3, 1], fmt).tolist() == [3, -3, -1, 2]


@pytest.mark.parametrize("fmt", [FixedPoint(2, 5), FixedPoint(0, 15)], ids=str)
def test_output_sums_in_order_with_separate_roundings(fmt):
    rng = rng_of(fmt, 4)
    w, k = rng.normal(size=(5, 60)).astype(np.float32), codes(fmt, rng, (2, 60))
    got = spec.fixed_output(w, k, fmt)
    assert got.dtype == np.float32
    for n, a in np.ndindex(got.shape):
        total = np.float32(0)
        for e in range(60):
            total = np.float32(total + np.float32(w[a, e] * np.float32(k[n, e] / 2**fmt.fraction)))
        assert got[n, a] == total


def test_integers_that_are_no_codes_are_refused():
    with pytest.raises(ValueError, match=r"-128 is no code of Q2.5, whose codes are \[-127..127\]"):
        spec.fixed_add(np.array([-128], np.int8), [0], FixedPoint(2, 5))
    with pytest.raises(ValueError, match="16 is no code"):
        checked([0, 16], FixedPoint(2, 2))
