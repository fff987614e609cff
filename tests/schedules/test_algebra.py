"""From codes to digits and back, without a compiler."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_qnn import spec
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.algebra import (
    border_classes,
    correct,
    fitting_digits,
    index_digits,
    value_digits,
)
from tvm_qnn.schedules.bitserial import planes_of, weight_digits
from tvm_qnn.schedules.plan import make_plan
from tvm_qnn.spec import Codes

BIPOLAR = Codes(-1, 1, 2)


def work_with(x: Codes, w: Codes, **more) -> ConvWork:
    geometry = {"padding": (1, 2, 0, 1), "strides": (2, 1), "dilation": (1, 2), **more}
    return ConvWork(2, 6, 7, 3, 4, (3, 2), x, w, **geometry)


def digits_tensor(codes, digits):
    return digits.mult * digits.codes.index(codes) + digits.base


@pytest.mark.parametrize(
    ("x", "x_zero"),
    [(Codes(0, 255), 0), (Codes(0, 255), 7), (Codes(-128, 127), -128), (BIPOLAR, 0),
     (Codes(-3, 3, 2), 0), (Codes(0, 3), 9)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("w", "w_zero"), [(Codes(-127, 127), (0,)), (Codes(0, 255), (128,)), (BIPOLAR, (0,)),
                      (Codes(0, 15), (1, 7, 7, 15))],
)  # fmt: skip
@pytest.mark.parametrize("x_base", [0, -5])
def test_terms_add_up_to_the_accumulators(x, x_zero, w, w_zero, x_base) -> None:
    work = work_with(x, w, x_zero=x_zero, w_zero=w_zero)
    rng = np.random.default_rng(1)
    xs = x.from_index(rng.integers(0, x.count, (2, 6, 7, 3)))
    ws = w.from_index(rng.integers(0, w.count, work.weight_shape))
    dx, dw = index_digits(x, (x_zero,), x_base), index_digits(w, w_zero, -1)
    terms = correct(work, ws, dx, dw)
    top, left, bottom, right = work.padding
    padded = np.pad(
        digits_tensor(xs, dx), ((0, 0), (top, bottom), (left, right), (0, 0)),
        constant_values=terms.fill,
    )  # fmt: skip
    geometry = {"strides": work.strides, "dilation": work.dilation}
    total = terms.scale * spec.conv2d(padded, digits_tensor(ws, dw), **geometry).astype(np.int64)
    if terms.slope is not None:
        sums = spec.conv2d(padded, np.ones((1, *ws.shape[1:]), int), **geometry)
        total = total + sums * terms.slope
    if terms.static is not None:
        total = total + terms.static[terms.rows[:, None], terms.columns[None, :]]
    expected = spec.conv2d(xs, ws, x_zero=x_zero, w_zero=w_zero, padding=work.padding, **geometry)
    np.testing.assert_array_equal(total, expected)


def test_border_classes_are_few() -> None:
    taps, index = border_classes(size=112, out=112, kernel=3, stride=1, pad=1, dilation=1)
    assert taps.shape == (3, 3)
    assert len(set(index[1:-1])) == 1
    assert taps[index[0]].tolist() == [False, True, True]
    assert taps[index[-1]].tolist() == [True, True, False]


def test_static_terms_only_where_needed() -> None:
    weights = np.zeros((4, 3, 2, 3), np.int64)
    unsigned = work_with(Codes(0, 3), Codes(-2, 1))
    plain = correct(
        unsigned, weights, index_digits(Codes(0, 3), (0,)), value_digits(Codes(-2, 1), 0)
    )
    assert plain.static is None
    assert plain.slope is None
    bipolar = work_with(BIPOLAR, BIPOLAR)
    bordered = correct(
        bipolar, weights - 1, index_digits(BIPOLAR, (0,)), index_digits(BIPOLAR, (0,))
    )
    assert bordered.bordered
    assert bordered.static.size < bipolar.out_height * bipolar.out_width * 4


@pytest.mark.parametrize(
    ("codes", "zeros", "mult", "base", "offsets"),
    [
        (Codes(-127, 127), (0,), 1, -127, (0,)),
        (Codes(0, 255), (128,), 1, -128, (0,)),
        (Codes(0, 255), (0,), 1, -128, (128,)),
        (Codes(0, 15), (3, 4), 1, 0, (-3, -4)),
        (BIPOLAR, (0,), 2, -1, (0,)),
        (Codes(0, 511), (0,), None, None, None),
    ],
)
def test_digits_fit_signed_bytes(codes, zeros, mult, base, offsets) -> None:
    digits = fitting_digits(codes, zeros, -128, 127)
    if mult is None:
        assert digits is None
    else:
        assert (digits.mult, digits.base, digits.offsets) == (mult, base, offsets)


@pytest.mark.parametrize(
    ("codes", "zeros", "planes", "needs_sums"),
    [
        (Codes(-1, 1), (0,), 2, False),
        (Codes(-2, 1), (0,), 2, False),
        (Codes(-1, 2), (0,), 2, True),
        (Codes(0, 3), (0,), 2, False),
        (Codes(-8, 7), (0,), 4, False),
        (BIPOLAR, (0,), 1, True),
        (Codes(0, 3), (1, 2, 1, 1), 2, True),
    ],
)
def test_weight_planes(codes, zeros, planes, needs_sums) -> None:
    digits = weight_digits(work_with(Codes(0, 1), codes, w_zero=zeros))
    assert planes_of(digits) == planes
    assert any(digits.offsets) == needs_sums


@pytest.mark.parametrize(
    ("width", "rows"), [(7, 7), (14, 7), (28, 7), (56, 7), (112, 7), (1, 1), (5, 5), (13, 7)]
)
def test_tiles_waste_little(width: int, rows: int) -> None:
    work = ConvWork(1, width, width, 64, 64, (3, 3), Codes(0, 1), Codes(0, 1), padding=(1, 1, 1, 1))
    plan = make_plan(work, 16, registers=32, update=0.5)
    assert plan.rows == rows
    assert plan.width_stored - width <= 1
    assert plan.rows * plan.blocks * plan.lanes * 4 < 1024
