"""Kernels of memory networks on this machine: every integer and every float equals ``spec``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.memory_cases import Size, cases, packed
from tests.schedules.helpers import HOST_TARGETS
from tests.schedules.memory_checks import check_here
from tvm_qnn import spec, targets
from tvm_qnn._tvm import tvm
from tvm_qnn.schedules.memory import place
from tvm_qnn.schedules.memory_kernel import prepared_weights
from tvm_qnn.spec import FixedPoint
from tvm_qnn.targets.x86 import AVX2

BASELINE = replace(AVX2, name="x86-64", cpu="x86-64", features=frozenset())
FORMATS = [
    FixedPoint(integer, bits - 1 - integer) for bits in range(2, 9) for integer in range(bits)
]
WIDE = [FixedPoint(3, 5), FixedPoint(0, 11), FixedPoint(7, 5), FixedPoint(15, 0), FixedPoint(0, 15)]
SIZES = [
    Size(1, 1, 1),
    Size(2, 2, 7),
    Size(1, 3, 60),
    Size(2, 50, 64),
    Size(1, 51, 65),
    Size(1, 1000, 60, words=2),
    Size(3, 17, 130, answers=67),
    Size(1, 20, 300, words=300, vocabulary=3),
]


@pytest.mark.parametrize("target", HOST_TARGETS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(target, size):
    rng = np.random.default_rng(size.slots)
    check_here(cases(rng, FixedPoint(2, 5), size), target)


@pytest.mark.parametrize("target", HOST_TARGETS)
@pytest.mark.parametrize("fmt", FORMATS + WIDE, ids=str)
def test_formats(target, fmt):
    found = cases(np.random.default_rng(fmt.bits), fmt, Size(1, 18, 60))
    multiplying = ("similarity", "hamming", "read")
    check_here([c for c in found if c.work.operations[0].kind in multiplying], target)


@pytest.mark.skipif(targets.host().arch != "x86_64", reason="x86 code")
@pytest.mark.parametrize("fmt", [FixedPoint(2, 5), FixedPoint(5, 2), FixedPoint(4, 7)], ids=str)
def test_a_processor_without_vector_extensions(fmt):
    check_here(cases(np.random.default_rng(1), fmt, Size(1, 19, 60)), BASELINE)


@pytest.mark.parametrize("target", HOST_TARGETS)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_works(target, data):
    bits = data.draw(st.integers(2, 16))
    fmt = FixedPoint(integer := data.draw(st.integers(0, bits - 1)), bits - 1 - integer)
    size = Size(
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 70)),
        data.draw(st.integers(1, 140)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(1, 40)),
        data.draw(st.integers(1, 40)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    check_here(cases(rng, fmt, size), target)


@pytest.mark.parametrize("fmt", [FixedPoint(0, 1), FixedPoint(2, 4), FixedPoint(3, 9)], ids=str)
def test_prepared_weights_are_padded_matrices_one_behind_the_other(fmt):
    m, shapes = fmt.limit, [(1, 1), (17, 60), (5, 64), (3, 65)]
    rng = np.random.default_rng(0)
    weights = [rng.integers(-m, m + 1, shape).astype(fmt.dtype) for shape in shapes]
    biased = [1, 3] if fmt.bits <= 8 else []
    placed, size = place(dict(enumerate(shapes)), biased)
    kernel = prepared_weights(placed, fmt, targets.host())
    assert kernel.packed_shape == (size,)
    module = tvm.compile(tvm.IRModule({"prepare": kernel.prepare}), targets.host().tvm())
    made = tvm.runtime.tensor(np.ones(kernel.packed_shape, kernel.packed_dtype))
    stream = spec.pack_stream(np.concatenate([w.reshape(-1) for w in weights]), fmt.codes)
    module["prepare"](tvm.runtime.tensor(stream), made)
    expected = [packed(w, i in biased) for i, w in enumerate(weights)]
    np.testing.assert_array_equal(made.numpy(), np.concatenate(expected))
