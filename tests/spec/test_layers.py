"""Integer layers against loops over plain integers and against the ONNX operators."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tvm_qnn import spec
from tvm_qnn.spec import Codes
from tvm_qnn.spec.layers import checked_int32


def naive_conv(x, w, x_zero, w_zero, strides, padding, dilation, groups):
    """Sum one product at a time; taps outside of the image add nothing."""
    n, height, width, _ = x.shape
    out, kh, kw, inner = w.shape
    top, left, bottom, right = padding
    out_h = (height + top + bottom - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_w = (width + left + right - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((n, out_h, out_w, out), object)
    for b, i, j, o in itertools.product(range(n), range(out_h), range(out_w), range(out)):
        total = 0
        for u, v, k in itertools.product(range(kh), range(kw), range(inner)):
            row = i * strides[0] + u * dilation[0] - top
            column = j * strides[1] + v * dilation[1] - left
            if 0 <= row < height and 0 <= column < width:
                code = int(x[b, row, column, o // (out // groups) * inner + k])
                total += (code - x_zero) * (int(w[o, u, v, k]) - int(w_zero[o]))
        y[b, i, j, o] = total
    return y


GEOMETRIES = {
    "plain": ((5, 4), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "asymmetric padding": ((5, 4), (3, 2), (1, 1), (2, 0, 1, 3), (1, 1), 1),
    "strides": ((6, 7), (2, 3), (2, 3), (1, 1, 0, 0), (1, 1), 2),
    "dilation": ((7, 6), (3, 2), (1, 2), (2, 1, 2, 1), (2, 3), 1),
    "groups": ((4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),
    "depthwise": ((4, 3), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6),
    "all padding at a corner": ((1, 1), (3, 3), (3, 3), (2, 2, 2, 2), (1, 1), 1),
    "one pixel": ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("x_codes", "x_zero", "w_codes"),
    [
        (Codes(0, 255), 128, Codes(-128, 127)),
        (Codes(0, 3), 0, Codes(-1, 1)),
        (Codes(-1, 1, 2), 0, Codes(-1, 1, 2)),
        (Codes(-128, 127), -128, Codes(0, 255)),
        (Codes(5, 9), 300, Codes(-3, 3, 2)),
    ],
)
def test_conv2d_equals_loops(geometry, x_codes, x_zero, w_codes):
    (height, width), kernel, strides, padding, dilation, groups = GEOMETRIES[geometry]
    rng = np.random.default_rng([len(geometry), abs(x_zero)])
    x = x_codes.from_index(rng.integers(0, x_codes.count, (2, height, width, 6)))
    w = w_codes.from_index(rng.integers(0, w_codes.count, (6, *kernel, 6 // groups)))
    w_zero = rng.integers(-3, 4, 6)
    got = spec.conv2d(
        x, w, x_zero=x_zero, w_zero=w_zero, strides=strides, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    expected = naive_conv(x, w, x_zero, w_zero, strides, padding, dilation, groups)
    assert got.dtype == np.int32
    assert got.shape == expected.shape
    assert (got == expected).all()


def test_conv2d_sums_beyond_float64_stay_exact():
    x = np.full((1, 1, 1, 3), 2**31 - 1)
    w = np.array([[[[2**30, -(2**30), 1]]]])
    assert spec.conv2d(x, w).tolist() == [[[[2**31 - 1]]]]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_accumulators_beyond_int32_raise(value):
    with pytest.raises(OverflowError, match="does not fit int32"):
        checked_int32(np.array([0, value]))
    with pytest.raises(OverflowError):
        spec.dense(np.array([[value]]), np.array([[1]]))


def test_accumulators_at_the_ends_of_int32_fit():
    ends = np.array([-(2**31), 2**31 - 1])
    assert (checked_int32(ends) == ends).all()
    assert checked_int32(np.zeros((0, 3), np.int64)).shape == (0, 3)


def onnx_run(op, inputs, runtime=True, **attrs):
    """Evaluate one ONNX operator with ONNX Runtime, or with the reference of ONNX."""
    names = [f"i{k}" for k in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op, names, ["y"], **attrs)
    graph = helper.make_graph([node], "one", infos, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    feed = dict(zip(names, inputs, strict=True))
    if runtime:
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    return ReferenceEvaluator(model).run(None, feed)[0]


@pytest.mark.parametrize("zero", [0, 7, 255])
def test_conv2d_equals_onnx_conv_integer(zero):
    rng = np.random.default_rng(zero)
    x = rng.integers(0, 256, (2, 5, 7, 6), np.uint8)
    w = rng.integers(0, 256, (4, 3, 2, 6), np.uint8)
    got = spec.conv2d(
        x, w, x_zero=zero, w_zero=9, strides=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2)
    )
    expected = onnx_run(
        "ConvInteger",
        [
            np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
            np.ascontiguousarray(w.transpose(0, 3, 1, 2)),
            np.array(zero, np.uint8),
            np.array(9, np.uint8),
        ],
        pads=[1, 0, 2, 1],
        strides=[2, 1],
        dilations=[1, 2],
    )
    assert (got == expected.transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize("shape", [(3, 17), (2, 3, 17), (1, 17)])
def test_dense_equals_onnx_matmul_integer(shape):
    rng = np.random.default_rng(len(shape))
    x = rng.integers(-128, 128, shape, np.int8)
    w = rng.integers(-128, 128, (5, 17), np.int8)
    w_zero = rng.integers(-128, 128, 5, np.int8)
    got = spec.dense(x, w, x_zero=-3, w_zero=w_zero)
    zero = np.array(-3, np.int8)
    expected = onnx_run("MatMulInteger", [x, np.ascontiguousarray(w.T), zero, w_zero], False)
    assert (got == expected).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_max_pool_equals_onnx(dtype):
    info = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(info.min, info.max + 1, (2, 6, 5, 3)).astype(dtype)
    got = spec.max_pool2d(
        x, (3, 2), lowest=info.min, strides=(2, 1), padding=(1, 0, 2, 1), dilation=(2, 1)
    )
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    expected = onnx_run(
        "MaxPool", [nchw], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[2, 1]
    )
    assert got.dtype == x.dtype
    assert (got == expected.transpose(0, 2, 3, 1)).all()


def test_max_pool_padding_is_the_lowest_code_not_zero():
    x = np.full((1, 1, 1, 1), -5, np.int8)
    assert spec.max_pool2d(x, (2, 2), lowest=-8, padding=(1, 1, 1, 1)).tolist() == [
        [[[-5], [-5]], [[-5], [-5]]]
    ]


def test_sum_pool_equals_onnx_average_pool_that_counts_its_padding():
    x = np.random.default_rng(2).integers(0, 256, (1, 5, 6, 2), np.uint8)
    got = spec.sum_pool2d(x, (2, 4), x_zero=9, strides=(1, 2), padding=(1, 2, 0, 1))
    real = np.ascontiguousarray((x.astype(np.float32) - 9).transpose(0, 3, 1, 2))
    expected = onnx_run(
        "AveragePool", [real], kernel_shape=[2, 4], strides=[1, 2], pads=[1, 2, 0, 1],
        count_include_pad=1,
    )  # fmt: skip
    assert (got == expected.transpose(0, 2, 3, 1) * 8).all()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_codebook_conv_sums_each_value_exactly(rows, groups):
    rng = np.random.default_rng(rows)
    x = rng.integers(0, 256, (1, 4, 5, 6), np.uint8)
    w = rng.integers(0, 3, (4, 3, 3, 6 // groups), np.uint8)
    table = rng.standard_normal((rows, 3)).astype(np.float32)
    options = {"strides": (1, 2), "padding": (1, 0, 1, 2), "dilation": (1, 1), "groups": groups}
    got = spec.codebook_conv2d(x, w, table, x_zero=100, **options)
    assert got.dtype == np.float32
    expected = np.zeros(got.shape, np.float32)
    for m in range(3):
        sums = naive_conv(
            x, (w == m).astype(int), 100, [0] * 4, (1, 2), (1, 0, 1, 2), (1, 1), groups
        )
        part = sums.astype(np.float32) * np.broadcast_to(table[:, m], 4)
        expected = part if m == 0 else (expected + part).astype(np.float32)
    assert (got == expected).all()


def test_codebook_with_grid_values_equals_the_integer_convolution():
    rng = np.random.default_rng(5)
    x = rng.integers(0, 16, (1, 4, 4, 3))
    index = rng.integers(0, 3, (2, 2, 2, 3))
    got = spec.codebook_conv2d(x, index, [-1.0, 0.0, 1.0], x_zero=4, padding=(1, 1, 1, 1))
    assert (got == spec.conv2d(x, index - 1, x_zero=4, padding=(1, 1, 1, 1))).all()


def test_add_is_two_scalings_and_one_rounding():
    a, b = (np.random.default_rng(s).integers(0, 256, 500) for s in (1, 2))
    codes = Codes(-128, 127)
    got = spec.add(a, b, a_mul=0.3, b_mul=1.7, offset=-200.5, codes=codes, zero=11)
    one = np.float32
    expected = []
    for p, q in zip(a.tolist(), b.tolist(), strict=True):
        first = one(one(p) * one(0.3)) + one(-200.5)
        total = one(first + one(one(q) * one(1.7)))
        expected.append(min(max(round(float(total)) + 11, -128), 127))
    assert got.dtype == np.int8
    assert got.tolist() == expected


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dilation", "expected"),
    [(5, 3, 1, 0, 1, 3), (5, 3, 2, 2, 1, 3), (6, 3, 2, 0, 2, 1), (1, 1, 7, 0, 1, 1)],
)
def test_output_size(size, kernel, stride, pad, dilation, expected):
    assert spec.output_size(size, kernel, stride, pad, dilation) == expected
