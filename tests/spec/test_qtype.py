"""Codes and their types: ranges, numbering, dtypes, and what is refused."""

import numpy as np
import pytest

from tvm_qnn.spec import Codes, QType


@pytest.mark.parametrize(
    ("codes", "count", "bits", "dtype"),
    [
        (Codes(0, 0), 1, 1, "uint8"),
        (Codes(0, 1), 2, 1, "uint8"),
        (Codes(-1, 1), 3, 2, "int8"),
        (Codes(-1, 1, 2), 2, 1, "int8"),
        (Codes(0, 4), 5, 3, "uint8"),
        (Codes(0, 255), 256, 8, "uint8"),
        (Codes(-128, 127), 256, 8, "int8"),
        (Codes(0, 256), 257, 9, "uint16"),
        (Codes(-1, 128), 130, 8, "int16"),
        (Codes(200, 300), 101, 7, "uint16"),
        (Codes(-1, 65535), 65537, 17, "int32"),
        (Codes(-(2**31), 2**31 - 1), 2**32, 32, "int32"),
    ],
)
def test_count_bits_and_dtype(codes, count, bits, dtype):
    assert (codes.count, codes.bits, codes.dtype) == (count, bits, dtype)


@pytest.mark.parametrize("arguments", [(1, 0), (0, 3, 2), (0, 4, 0), (0, 4, -1), (-1, 1, 4)])
def test_codes_that_are_none(arguments):
    with pytest.raises(ValueError, match="no codes in"):
        Codes(*arguments)


@pytest.mark.parametrize("codes", [Codes(-3, 3, 2), Codes(7, 7), Codes(-128, 127), Codes(5, 20, 5)])
def test_index_and_back(codes):
    every = np.arange(codes.lo, codes.hi + 1, codes.step)
    assert (codes.index(every) == np.arange(codes.count)).all()
    assert (codes.from_index(np.arange(codes.count)) == every).all()
    assert codes.contains(every)
    assert not codes.contains([codes.hi + codes.step])
    assert not codes.contains([codes.lo - codes.step])
    assert codes.contains([])


def test_codes_between_the_steps_are_none():
    assert not Codes(-3, 3, 2).contains([-3, 0, 3])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_are_positive_and_finite(scale):
    with pytest.raises(ValueError, match=f"positive and finite, found {scale}"):
        QType(Codes(0, 3), (1.0, scale), axis=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (1.0, 2.0)}, "axis None"),
        ({"zero": (1, 2)}, "axis None"),
        ({"scale": (1.0, 2.0), "zero": (1, 2, 3), "axis": 0}, r"sizes \[2, 3\]"),
        ({"codebook": ((1.0, 2.0),)}, "needs 4 values"),
        ({"codebook": ((1.0, 2.0, 3.0, float("nan")),)}, "must be finite"),
        ({"codebook": ((1.0, 2.0, 3.0, 4.0),) * 2}, "axis None"),
        ({"codebook": ((1.0, 2.0, 3.0, 4.0),) * 2, "scale": (1.0,) * 3, "axis": 0}, "sizes"),
    ],
)
def test_parameters_that_do_not_fit_together(fields, message):
    with pytest.raises(ValueError, match=message):
        QType(Codes(0, 3), **fields)


@pytest.mark.parametrize("codes", [Codes(1, 4), Codes(0, 6, 2)])
def test_codes_of_a_codebook_count_from_0(codes):
    with pytest.raises(ValueError, match="count from 0"):
        QType(codes, codebook=((1.0, 2.0, 3.0, 4.0),))


def test_what_a_type_says_about_itself():
    assert str(QType(Codes(0, 3))) == "2 bit [0..3]"
    assert str(QType(Codes(-1, 1, 2), zero=(4,))) == "1 bit [-1..1:2], zero 4"
    assert str(QType(Codes(0, 1), codebook=((0.5, 1.5),))) == "codebook of 2"
    assert QType(Codes(0, 3), (1.0, 2.0), axis=1).per_axis
    assert not QType(Codes(0, 3)).per_axis
