"""Quantizers, requantization and thresholds against ONNX, plain Python and each other."""

import math

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tvm_qnn import spec
from tvm_qnn.spec import Codes, QType

DTYPES = {
    "uint8": Codes(0, 255),
    "int8": Codes(-128, 127),
    "uint16": Codes(0, 65535),
    "int16": Codes(-32768, 32767),
}


def onnx_linear(op, x, scale, zero, axis):
    infos = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    parts = {"scale": scale, "zero": zero}
    constants = [helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v)
                 for k, v in parts.items()]  # fmt: skip
    node = helper.make_node(op, ["x", "scale", "zero"], ["y"], axis=axis)
    out = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([node], "one", infos, out, constants)
    kind = zero.dtype if op == "QuantizeLinear" else np.dtype(np.float32)
    graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(kind)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def parameters(dtype, channels, rng):
    info = np.iinfo(dtype)
    scale = rng.uniform(0.01, 3, channels).astype(np.float32)
    zero = rng.integers(info.min, info.max + 1, channels).astype(dtype)
    return scale, zero


def qtype_of(codes, scale, zero, axis):
    return QType(codes, tuple(map(float, scale.ravel())), tuple(map(int, zero.ravel())), axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 2])
def test_quantize_equals_onnx(dtype, axis):
    rng = np.random.default_rng(len(dtype))
    x = (rng.standard_normal((3, 4, 5)) * 200).astype(np.float32)
    scale, zero = parameters(dtype, 1 if axis is None else x.shape[axis], rng)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    x[0, 0] = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32) * (
        scale if axis == 2 else scale.flat[0]
    )
    x[1, 1, :4] = [np.inf, -np.inf, 3e38, -0.0]
    got = spec.quantize(x, qtype_of(DTYPES[dtype], scale, zero, axis))
    expected = onnx_linear("QuantizeLinear", x, scale, zero, 1 if axis is None else axis)
    # ONNX Runtime leaves infinities undefined.
    finite = np.isfinite(x)
    assert got.dtype == dtype
    assert (got[finite] == expected[finite]).all()
    codes = DTYPES[dtype]
    assert got[1, 1, :2].tolist() == [codes.hi, codes.lo]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 1])
def test_dequantize_equals_onnx(dtype, axis):
    rng = np.random.default_rng(7)
    info = np.iinfo(dtype)
    q = rng.integers(info.min, info.max + 1, (3, 4, 5)).astype(dtype)
    scale, zero = parameters(dtype, 1 if axis is None else 4, rng)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    got = spec.dequantize(q, qtype_of(DTYPES[dtype], scale, zero, axis))
    assert got.dtype == np.float32
    assert (got == onnx_linear("DequantizeLinear", q, scale, zero, 1)).all()


def test_not_a_number_becomes_the_zero_point():
    assert spec.quantize(np.float32(np.nan), QType(Codes(0, 255), zero=(7,))) == 7
    assert spec.quantize(np.float32(np.nan), QType(Codes(0, 255), zero=(-7,))) == 0
    assert spec.quantize(np.full(2, np.nan), QType(Codes(-3, 3, 2))).dtype == np.int8


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("half_even", [-2, -2, 0, 0, 2, 2, 4, 1, -1]),
        ("floor", [-3, -2, -1, 0, 1, 2, 3, 0, -1]),
        ("ceil", [-2, -1, 0, 1, 2, 3, 4, 1, 0]),
        ("truncate", [-2, -1, 0, 0, 1, 2, 3, 0, 0]),
    ],
)
def test_rounding_modes_at_ties_and_beside(rounding, expected):
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.75, -0.75], np.float32)
    assert spec.quantize(x, QType(Codes(-128, 127)), rounding).tolist() == expected
    assert spec.requantize(2 * x, [0.5], [0.0], Codes(-128, 127), 0, rounding).tolist() == expected


def test_the_zero_point_is_added_after_rounding():
    # 0.5 rounds to 0 and 1.5 to 2, whatever the zero point; ONNX says so.
    qtype = QType(Codes(0, 255), zero=(1,))
    assert spec.quantize(np.array([0.5, 1.5], np.float32), qtype).tolist() == [1, 3]
    assert spec.requantize([1, 3], [0.5], [0.0], Codes(0, 255), 1).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (Codes(-1, 1, 2), [-1, -1, -1, -1, 1, 1, 1]),
        (Codes(-3, 3, 2), [-3, -3, -1, 1, 1, 1, 3]),
        (Codes(0, 6, 3), [0, 0, 0, 0, 0, 3, 6]),
    ],
)
def test_codes_with_a_step(codes, expected):
    # Ties between the codes go to the one with the even number.
    x = np.array([-9, -2, -1, 0, 0.25, 2, 9], np.float32)
    got = spec.quantize(x, QType(codes))
    assert got.dtype == codes.dtype
    assert got.tolist() == expected
    nearest = [min(range(codes.lo, codes.hi + 1, codes.step), key=lambda c: abs(c - v)) for v in x]
    apart = [abs((v - codes.lo) / codes.step % 1 - 0.5) > 1e-6 for v in x]
    assert [g for g, a in zip(got, apart, strict=True) if a] == [
        n for n, a in zip(nearest, apart, strict=True) if a
    ]


@pytest.mark.parametrize("axis", [None, 0])
def test_codebook_takes_the_nearest_value_and_the_lower_code_on_a_tie(axis):
    book = ((-1.0, 0.0, 1.0),) if axis is None else ((-1.0, 0.0, 1.0), (0.0, 4.0, 2.0))
    qtype = QType(Codes(0, 2), axis=axis, codebook=book)
    x = np.array([[-7, -0.5, 0.5, 0.6], [1, 3, -1, 3.5]], np.float32)
    second = [2, 2, 0, 2] if axis is None else [0, 1, 0, 1]
    assert qtype.quantize(x).tolist() == [[0, 0, 1, 2], second]
    back = qtype.dequantize(qtype.quantize(x))
    assert back.dtype == np.float32
    assert back.tolist()[0] == [-1.0, -1.0, 0.0, 1.0]
    assert back.tolist()[1] == ([1.0, 1.0, -1.0, 1.0] if axis is None else [0.0, 4.0, 0.0, 4.0])


def test_codes_survive_the_way_to_real_values_and_back():
    for codes in (Codes(0, 255), Codes(-128, 127), Codes(-7, 7, 2), Codes(3, 3)):
        zero = 5 if codes.step == 1 else 0
        qtype = QType(codes, (0.1,), (zero,))
        every = codes.from_index(np.arange(codes.count))
        assert (qtype.quantize(qtype.dequantize(every)) == every).all()


def exact_affine(acc, mul, add):
    """Convert, multiply, add in float32, each rounded once: floats of Python hold the products."""
    one = np.float32
    with np.errstate(over="ignore"):
        return one(one(float(one(acc)) * float(one(mul))) + one(add))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
)
def test_affine_rounds_three_times(acc, mul, add):
    assert spec.affine([acc], [mul], [add])[0] == exact_affine(acc, mul, add)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_requantize_equals_python(data):
    codes = Codes(*data.draw(st.sampled_from([(0, 255), (-128, 127), (0, 3), (-7, 8)])))
    zero = data.draw(st.integers(-300, 300))
    mul, add = (data.draw(st.floats(-8, 8, width=32)) for _ in range(2))
    accs = data.draw(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=20))
    expected = [
        min(max(round(float(exact_affine(a, mul, add))) + zero, codes.lo), codes.hi) for a in accs
    ]
    assert spec.requantize(accs, [mul], [add], codes, zero).tolist() == expected


FACTORS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, -1.0, 0.5, -0.5]),
    st.floats(-4, 4, width=32),
    st.floats(-0.0625, 0.0625, width=32),
)
OFFSETS = st.one_of(
    st.sampled_from([0.0, 0.5, -0.5, 1.5, 1e30, -1e30]), st.floats(-64, 64, width=32)
)


@st.composite
def some_codes(draw):
    lo, step = draw(st.integers(-200, 200)), draw(st.sampled_from([1, 1, 1, 2, 3]))
    return Codes(lo, lo + step * (draw(st.integers(1, 20)) - 1), step)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(FACTORS, OFFSETS), min_size=1, max_size=4),
    some_codes(),
    st.integers(-20, 20),
    st.sampled_from(sorted(spec.ROUNDINGS)),
    st.integers(-400, 100),
    st.integers(0, 500),
)
def test_thresholds_equal_requantize_for_every_accumulator(
    parameters, codes, zero, rounding, lowest, width
):
    mul, add = (np.array(v, np.float32) for v in zip(*parameters, strict=True))
    zero = 0 if codes.step != 1 else zero
    levels, falling = spec.thresholds_of(mul, add, codes, (lowest, lowest + width), zero, rounding)
    assert levels.shape == (len(mul), codes.count - 1)
    assert levels.dtype == np.int32
    acc = np.repeat(np.arange(lowest, lowest + width + 1)[:, None], len(mul), axis=1)
    wanted = spec.requantize(acc, mul, add, codes, zero, rounding)
    assert (spec.threshold(acc, levels, falling, codes) == wanted).all()


@pytest.mark.parametrize("mul", [1e-9, -1e-9, 3.1e-9, 1.0])
def test_thresholds_over_the_whole_of_int32(mul):
    lowest, highest = -(2**31) + 1, 2**31 - 2
    codes = Codes(-3, 3)
    levels, falling = spec.thresholds_of([mul], [0.25], codes, (lowest, highest))
    rng = np.random.default_rng(0)
    near = np.concatenate([levels.ravel() + d for d in (-2, -1, 0, 1, 2)])
    acc = np.concatenate([near, rng.integers(lowest, highest, 1000), [lowest, highest]])
    acc = np.clip(acc.astype(np.int64), lowest, highest)[:, None]
    wanted = spec.requantize(acc, [mul], [0.25], codes)
    assert np.unique(wanted).size > 1
    assert (spec.threshold(acc, levels, falling, codes) == wanted).all()


def test_thresholds_that_no_accumulator_reaches_lie_one_beyond():
    levels, falling = spec.thresholds_of([0.0, 0.0, 1.0], [0.0, 9.0, 0.0], Codes(0, 2), (-5, 5))
    assert falling.tolist() == [False, False, False]
    assert levels.tolist() == [[6, 6], [-5, -5], [1, 2]]


def test_one_code_has_no_thresholds():
    levels, falling = spec.thresholds_of([2.0, -2.0], [0.0, 0.0], Codes(4, 4), (-5, 5))
    assert levels.shape == (2, 0)
    assert spec.threshold([[1, 2]], levels, falling, Codes(4, 4)).tolist() == [[4, 4]]


def test_huge_values_saturate():
    codes = Codes(-128, 127)
    big = np.float32(3e38)
    assert spec.requantize([2**31 - 1, -(2**31)], [big], [0.0], codes).tolist() == [127, -128]
    assert math.isinf(spec.affine([2**31 - 1], [big], [0.0])[0])
