"""Packed storage: round trips of random codes, and the bits where the definition puts them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_qnn import spec
from tvm_qnn.spec import Codes


@st.composite
def codes_and_values(draw):
    lo, step = draw(st.integers(-200, 200)), draw(st.sampled_from([1, 2, 3, 7]))
    codes = Codes(lo, lo + step * draw(st.integers(0, 300)), step)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 130)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return codes, codes.from_index(rng.integers(0, codes.count, shape))


@settings(max_examples=150, deadline=None)
@given(codes_and_values())
def test_stream_round_trip(case):
    codes, values = case
    stream = spec.pack_stream(values, codes)
    assert stream.dtype == np.uint8
    assert stream.shape == (spec.packed_bytes(values.size, codes.bits),)
    back = spec.unpack_stream(stream, values.shape, codes)
    assert back.dtype == codes.dtype
    assert (back == values).all()


@settings(max_examples=150, deadline=None)
@given(codes_and_values(), st.sampled_from([8, 16, 32, 64]))
def test_planes_round_trip(case, word):
    codes, values = case
    planes = spec.pack_planes(values, codes, word)
    assert planes.dtype == f"uint{word}"
    assert planes.shape == (len(values), codes.bits, -(-values.shape[1] // word))
    back = spec.unpack_planes(planes, values.shape[1], codes)
    assert back.dtype == codes.dtype
    assert (back == values).all()


@settings(max_examples=50, deadline=None)
@given(codes_and_values())
def test_bits_lie_where_the_definition_says(case):
    codes, values = case
    index = codes.index(values)
    stream = spec.pack_stream(values, codes).tolist()
    for i, number in enumerate(index.ravel().tolist()):
        for j in range(codes.bits):
            at = i * codes.bits + j
            assert stream[at // 8] >> at % 8 & 1 == number >> j & 1
    planes = spec.pack_planes(values, codes)
    for row in range(len(values)):
        for p in range(codes.bits):
            words = [int(w) for w in planes[row, p]]
            bits = [words[c // 32] >> c % 32 & 1 for c in range(32 * len(words))]
            expected = [int(v) >> p & 1 for v in index[row]]
            assert bits == expected + [0] * (len(bits) - len(expected))


@pytest.mark.parametrize(
    ("count", "bits", "expected"),
    [(0, 3, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (5, 3, 2), (3, 8, 3)],
)
def test_packed_bytes(count, bits, expected):
    assert spec.packed_bytes(count, bits) == expected


def test_unused_bits_of_the_last_byte_are_0():
    assert spec.pack_stream([1, 1, 1], Codes(0, 1)).tolist() == [7]
    assert spec.pack_stream([-1, 1], Codes(-1, 1, 2)).tolist() == [2]
