"""What follows the accumulators: float32 arithmetic, rounding, thresholds, bit planes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedules.helpers import HOST_TARGETS, check, expected, random_data, run_kernel
from tvm_qnn import spec
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import family
from tvm_qnn.spec import Codes

pytestmark = pytest.mark.parametrize("target", HOST_TARGETS)


def dense(outputs: int, epilogue: Epilogue, rows: int = 40) -> ConvWork:
    return ConvWork(
        1, 1, rows, 64, outputs, (1, 1), Codes(0, 255), Codes(-127, 127), epilogue=epilogue
    )


def compare(work: ConvWork, target, params, method: str = "dot") -> None:
    x, w = random_data(work)
    found = run_kernel(work, family(method), target, x, w, params)
    np.testing.assert_array_equal(found, expected(work, x, w, params))


@pytest.mark.parametrize("method", ["dot", "reference"])
@pytest.mark.parametrize("outputs", [32, 17])
def test_three_roundings_not_a_fused_multiply_add(target, method: str, outputs: int) -> None:
    rng = np.random.default_rng(5)
    mul = rng.uniform(0.5, 2, outputs).astype(np.float32)
    add = rng.uniform(-1e6, 1e6, outputs).astype(np.float32)
    work = dense(outputs, Epilogue("affine"))
    x, w = random_data(work)
    acc = spec.conv2d(x, w)
    fused = (acc.astype(np.float64) * mul + add).astype(np.float32)
    assert (fused != spec.affine(acc, mul, add)).any(), "the data must tell the two apart"
    compare(work, target, (mul, add), method)


@pytest.mark.parametrize("rounding", spec.ROUNDINGS)
@pytest.mark.parametrize(
    ("codes", "zero"),
    [(Codes(0, 255), 0), (Codes(-128, 127), -7), (Codes(-1, 1, 2), 0), (Codes(-9, 9, 3), 0),
     (Codes(0, 1000), 500)],
)  # fmt: skip
def test_requantize(target, rounding: str, codes: Codes, zero: int) -> None:
    rng = np.random.default_rng(6)
    # Halves make ties, and both signs make both directions.
    mul = rng.choice([-0.5, 0.5, 1 / 1024, -1 / 4096, 0.0], 48).astype(np.float32)
    add = rng.choice([-2.5, -0.5, 0.0, 0.5, 1.5, 3.25], 48).astype(np.float32)
    compare(dense(48, Epilogue("requantize", codes, zero, rounding)), target, (mul, add))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_huge_factors_saturate(target) -> None:
    mul = np.array([1e30, -1e30, 3e38, -3e38, 1e5, -1e5, 0, 1] * 4, np.float32)
    add = np.array([0, 1e30, -3e38, 3e38, 1e9, -1e9, 3e9, -3e9] * 4, np.float32)
    epilogue = Epilogue("requantize", Codes(-128, 127), 3)
    compare(dense(32, epilogue), target, (mul, add))


@pytest.mark.parametrize("count", [2, 4, 16, 18, 41])
@pytest.mark.parametrize("pack", [False, True])
def test_thresholds_equal_requantize(target, count: int, pack: bool) -> None:
    codes = Codes(-3, count - 4)
    rng = np.random.default_rng(7)
    mul = (rng.choice([-1, 1], 21) * rng.uniform(1e-4, 1e-3, 21)).astype(np.float32)
    add = rng.uniform(-4, 4, 21).astype(np.float32)
    work = dense(21, Epilogue("threshold", codes, pack=pack))
    thresholds, falling = spec.thresholds_of(mul, add, codes, work.acc_range)
    compare(work, target, (thresholds, falling.astype(np.int32)))
    x, w = random_data(work)
    same = spec.threshold(spec.conv2d(x, w), thresholds, falling, codes)
    np.testing.assert_array_equal(same, spec.requantize(spec.conv2d(x, w), mul, add, codes))


@pytest.mark.parametrize("method", ["dot", "reference"])
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 64, 272])
def test_bit_planes_fill_the_last_word_with_zeros(target, method: str, outputs: int) -> None:
    for codes in (Codes(0, 1), Codes(-8, 7)):
        check(dense(outputs, Epilogue("requantize", codes, pack=True), 3), family(method), target)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("outputs", [272, 280])
def test_a_prime_number_of_registers_is_filled_up(target, rows: int, outputs: int) -> None:
    """17 registers of channels make tiles of several registers, with unused channels at the end."""
    for epilogue in (Epilogue(), Epilogue("requantize", Codes(0, 255), 7)):
        check(dense(outputs, epilogue, rows), family("dot"), target)


def test_thresholds_at_the_ends_of_int32(target) -> None:
    codes = Codes(0, 3)
    work = dense(2, Epilogue("threshold", codes, pack=True))
    low, high = -(2**31), 2**31 - 1
    thresholds = np.array([[low, 0, high], [high, 0, low]], np.int32)
    compare(work, target, (thresholds, np.array([0, 1], np.int32)))
