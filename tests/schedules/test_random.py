"""Random convolutions: all families that take one agree with ``spec`` and with each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedules.helpers import (
    HOST_TARGETS,
    expected,
    families_for,
    random_data,
    random_params,
    run_kernel,
)
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.spec import Codes


@st.composite
def codes(draw, most_bits: int = 8) -> Codes:
    step = draw(st.sampled_from([1, 1, 1, 2, 3]))
    count = draw(st.integers(2, min(2 ** draw(st.integers(1, most_bits)), 255 // step + 1)))
    lo = draw(st.integers(-128, 0 if draw(st.booleans()) else 127))
    lo = min(lo, 255 - step * (count - 1))
    return Codes(lo, lo + step * (count - 1), step)


@st.composite
def epilogues(draw) -> Epilogue:
    kind = draw(st.sampled_from(["none", "affine", "requantize", "threshold"]))
    if kind in ("none", "affine"):
        return Epilogue(kind)
    out = draw(codes(5))
    zero = draw(st.integers(-9, 9)) if kind == "requantize" and out.step == 1 else 0
    rounding = draw(st.sampled_from(["half_even", "floor", "ceil", "truncate"]))
    return Epilogue(kind, out, zero, rounding, pack=draw(st.booleans()))


@st.composite
def works(draw) -> ConvWork:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    smallest = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    x, w = draw(codes()), draw(codes())
    channels, outputs, groups = draw(st.integers(1, 40)), draw(st.integers(1, 40)), 1
    if draw(st.integers(0, 4)) == 0:
        groups = outputs = channels
    zero = st.integers(w.lo - 1, w.hi + 1)
    one = draw(st.booleans())
    w_zero = (draw(zero),) if one else tuple(
        draw(st.lists(zero, min_size=outputs, max_size=outputs))
    )  # fmt: skip
    return ConvWork(
        batch=draw(st.integers(1, 2)),
        height=smallest[0] + draw(st.integers(0, 4)),
        width=smallest[1] + draw(st.integers(0, 6)),
        in_channels=channels,
        out_channels=outputs,
        kernel=kernel,
        x=x,
        w=w,
        strides=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        x_zero=draw(st.integers(x.lo - 1, x.hi + 1)),
        w_zero=w_zero,
        x_planes=draw(st.integers(0, 3)) == 0,
        epilogue=draw(epilogues()),
    )


@pytest.mark.parametrize("target", HOST_TARGETS)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(work=works(), seed=st.integers(0, 9))
def test_random_works(target, work: ConvWork, seed: int) -> None:
    x, w = random_data(work, seed)
    params = random_params(work, seed)
    wanted = expected(work, x, w, params)
    able = families_for(work, target)
    assert "reference" in [f.name for f in able]
    for candidate in able:
        found = run_kernel(work, candidate, target, x, w, params)
        np.testing.assert_array_equal(found, wanted, err_msg=candidate.name)
