"""recognize: which float operators become integer operators, and why the others do not."""

import numpy as np
import pytest

from tests.passes.relax_modules import (
    INT8,
    UINT8,
    call_of,
    floats,
    module,
    ops,
    outputs,
    quantized,
    weights,
)
from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of
from tvm_qnn.passes.facts import grid_of, narrowed
from tvm_qnn.passes.recognize import recognize
from tvm_qnn.passes.rewrite import constant
from tvm_qnn.spec import Codes, QType

IMAGE, MATRIX = [1, 4, 5, 6], [3, 6]
ACTIVATIONS = QType(UINT8, (0.5,), (10,))
RNG = np.random.default_rng(0)
KERNEL = RNG.integers(-3, 4, [6, 4, 3, 3])
ROWS = RNG.integers(-3, 4, [5, 6])


def run(body, shape=IMAGE, dtype="float32"):
    refusals = []
    before = module(shape, body, dtype)
    return before, recognize(before, refusals), refusals


def conv(emit, x, w, **attrs):
    return emit(relax.op.nn.conv2d(x, w, **attrs), "conv")


def equal(before, after, shape):
    x = (np.random.default_rng(1).integers(-40, 40, shape) * 0.25).astype(np.float32)
    for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
        assert (a == b).all()


def test_a_convolution_becomes_integer():
    def body(emit, x):
        w = emit(weights(KERNEL, [0.5, 1, 2, 0.25, 0.5, 1], 1))
        return conv(emit, quantized(emit, x, ACTIVATIONS), w, padding=[1, 0, 2, 1], strides=[2, 1])

    before, after, refusals = run(body)
    assert refusals == []
    assert ops(after) == [
        "qnn.quantize", "permute_dims", "qnn.conv2d", "qnn.affine", "permute_dims",
    ]  # fmt: skip
    call = call_of(after, "qnn.conv2d")
    attrs = attrs_of(call)
    assert (constant(call.args[1]) == KERNEL.transpose(0, 2, 3, 1)).all()
    assert (codes_of(attrs, "x_"), attrs["x_zero"]) == (UINT8, 10)
    assert (codes_of(attrs, "w_"), attrs["w_zero"]) == (Codes(-3, 3), [1])
    assert (attrs["padding"], attrs["strides"], attrs["groups"]) == ([1, 0, 2, 1], [2, 1], 1)
    equal(before, after, IMAGE)


def test_a_matrix_product_becomes_integer_also_with_turned_weights():
    def body(emit, x):
        turned = emit(relax.op.permute_dims(emit(weights(ROWS, [0.5, 1, 2, 0.25, 4]))))
        return emit(relax.op.matmul(quantized(emit, x, ACTIVATIONS), turned))

    before, after, refusals = run(body, MATRIX)
    assert refusals == []
    assert ops(after) == ["qnn.quantize", "qnn.dense", "qnn.affine"]
    assert (constant(call_of(after, "qnn.dense").args[1]) == ROWS).all()
    assert constant(call_of(after, "qnn.affine").args[1]).tolist() == [0.25, 0.5, 1, 0.125, 2]
    equal(before, after, MATRIX)


def test_rows_of_more_dimensions():
    def body(emit, x):
        return emit(relax.op.matmul(quantized(emit, x, ACTIVATIONS), floats(ROWS.T)))

    before, after, refusals = run(body, [2, 3, 6])
    assert refusals == []
    equal(before, after, [2, 3, 6])


@pytest.mark.parametrize("rows", [1, 6])
def test_codebooks(rows):
    table = ((-0.75, 0.125, 1.0),) * rows
    index = build.const(KERNEL % 3, "uint8")

    def body(emit, x):
        qtype = QType(Codes(0, 2), axis=None if rows == 1 else 0, codebook=table)
        w = emit(build.dequantize(index, qtype))
        return conv(emit, quantized(emit, x, ACTIVATIONS), w, padding=[1, 1])

    before, after, refusals = run(body)
    assert refusals == []
    assert "qnn.codebook_conv2d" in ops(after)
    equal(before, after, IMAGE)


def test_a_grouped_codebook():
    def body(emit, x):
        qtype = QType(Codes(0, 2), codebook=((-0.75, 0.125, 1.0),))
        w = emit(build.dequantize(build.const(KERNEL[:4, :1] % 3, "uint8"), qtype))
        return conv(emit, quantized(emit, x, ACTIVATIONS), w, groups=4)

    before, after, refusals = run(body)
    assert refusals == []
    assert "qnn.codebook_conv2d" in ops(after)
    equal(before, after, IMAGE)


def test_a_codebook_in_a_matrix_product():
    def body(emit, x):
        qtype = QType(Codes(0, 2), axis=0, codebook=((-0.75, 0.125, 1.0),) * 5)
        w = emit(build.dequantize(build.const(ROWS % 3, "uint8"), qtype))
        return emit(
            relax.op.matmul(quantized(emit, x, ACTIVATIONS), emit(relax.op.permute_dims(w)))
        )

    before, after, refusals = run(body, MATRIX)
    assert refusals == []
    assert "qnn.codebook_conv2d" in ops(after)
    equal(before, after, MATRIX)


def test_max_pooling_pads_with_the_lowest_code():
    def body(emit, x):
        q = quantized(emit, x, QType(INT8, (0.5,), (100,)))
        return emit(relax.op.nn.max_pool2d(q, [3, 3], padding=[1, 1], dilation=[1, 2]))

    before, after, refusals = run(body)
    assert refusals == []
    assert codes_of(attrs_of(call_of(after, "qnn.max_pool2d"))) == INT8
    equal(before, after, IMAGE)


@pytest.mark.parametrize(
    "pool",
    [
        lambda q: relax.op.nn.avg_pool2d(q, [2, 4]),
        lambda q: relax.op.nn.avg_pool2d(q, [2, 2], padding=[1, 0, 0, 1], count_include_pad=True),
        lambda q: relax.op.nn.adaptive_avg_pool2d(q, [1, 1]),
        lambda q: relax.op.mean(q, [2, 3], keepdims=True),
        lambda q: relax.op.mean(q, [-1, -2]),
    ],
)
def test_averages_become_sums(pool):
    shape = [1, 4, 4, 4]
    before, after, refusals = run(
        lambda emit, x: emit(pool(quantized(emit, x, ACTIVATIONS))), shape
    )
    assert refusals == []
    assert "qnn.sum_pool2d" in ops(after)
    equal(before, after, shape)


W = floats(KERNEL * 0.5)
PER_CHANNEL = QType(UINT8, (0.5, 0.25, 1.0, 2.0), axis=1)
SIXTEEN = QType(Codes(-32768, 32767), (0.5,))
BOOK = QType(Codes(0, 255), codebook=(tuple(float(v) for v in range(256)),))

REFUSED = {
    "float activations": (lambda emit, x: conv(emit, x, W), "its input is not quantized"),
    "activations per channel": (
        lambda emit, x: conv(emit, quantized(emit, x, PER_CHANNEL), W),
        "its input is quantized per channel",
    ),
    "activations of 16 bits": (
        lambda emit, x: conv(emit, quantized(emit, x, SIXTEEN), W), "its input has 16 bits"
    ),
    "activations from a codebook": (
        lambda emit, x: conv(
            emit, emit(build.dequantize(emit(build.quantize(x, QType(UINT8))), BOOK)), W
        ),
        "its input comes from a codebook",
    ),
    "weights that are computed": (
        lambda emit, x: emit(
            relax.op.nn.conv2d(quantized(emit, x, ACTIVATIONS), emit(relax.op.sigmoid(x))), "conv"
        ),
        "its weights are not constant",
    ),
    "float weights": (
        lambda emit, x: conv(
            emit, quantized(emit, x, ACTIVATIONS), floats(RNG.standard_normal([6, 4, 3, 3]))
        ),
        "its weights are not quantized",
    ),
    "weights that are no numbers": (
        lambda emit, x: conv(
            emit, quantized(emit, x, ACTIVATIONS), floats(np.full([6, 4, 3, 3], np.nan))
        ),
        "its weights are not quantized",
    ),
    "weights with scales along the input": (
        lambda emit, x: conv(
            emit,
            quantized(emit, x, ACTIVATIONS),
            emit(build.dequantize(build.const(KERNEL, "int8"),
                                  QType(INT8, (1.0, 2.0, 4.0, 8.0), axis=1))),
        ),
        "its weights are quantized along axis 1",
    ),
    "codebooks along the input": (
        lambda emit, x: conv(
            emit,
            quantized(emit, x, ACTIVATIONS),
            emit(build.dequantize(build.const(KERNEL % 2, "uint8"),
                                  QType(Codes(0, 1), axis=1, codebook=((1.0, 2.0),) * 4))),
        ),
        "axis",
    ),
    "NHWC": (
        lambda emit, x: emit(
            relax.op.nn.conv2d(
                quantized(emit, x, ACTIVATIONS), floats(np.ones([2, 6, 1, 1])), data_layout="NHWC"
            ),
            "conv",
        ),
        "layout NHWC",
    ),
    "ceil mode": (
        lambda emit, x: emit(
            relax.op.nn.max_pool2d(
                quantized(emit, x, ACTIVATIONS), [2, 2], strides=[2, 2], ceil_mode=True
            ),
            "conv",
        ),
        "ceil mode",
    ),
    "padding that does not count": (
        lambda emit, x: emit(
            relax.op.nn.avg_pool2d(quantized(emit, x, ACTIVATIONS), [2, 2], padding=[1, 1]), "conv"
        ),
        "does not count its padding",
    ),
    "dilated average": (
        lambda emit, x: emit(
            relax.op.nn.avg_pool2d(quantized(emit, x, ACTIVATIONS), [2, 2], dilation=[2, 2]),
            "conv",
        ),
        "dilation",
    ),
    "pooling to more than a pixel": (
        lambda emit, x: emit(
            relax.op.nn.adaptive_avg_pool2d(quantized(emit, x, ACTIVATIONS), [2, 2]), "conv"
        ),
        "more than one pixel",
    ),
    "a mean over channels": (
        lambda emit, x: emit(relax.op.mean(quantized(emit, x, ACTIVATIONS), [1]), "conv"),
        "mean over axes [1]",
    ),
    "a product of activations": (
        lambda emit, x: emit(
            relax.op.matmul(
                quantized(emit, x, ACTIVATIONS),
                emit(relax.op.permute_dims(quantized(emit, x, ACTIVATIONS), [0, 1, 3, 2])),
            ),
            "conv",
        ),
        "a product of two activations",
    ),
    "a transposed convolution": (
        lambda emit, x: emit(
            relax.op.nn.conv2d_transpose(x, floats(np.ones([4, 2, 3, 3]))), "conv"
        ),
        "transposed convolution has no integer form",
    ),
    "sums beyond int32": (
        lambda emit, x: conv(
            emit,
            emit(build.dequantize(emit(build.quantize(x, ACTIVATIONS)),
                                  QType(UINT8, (0.5,), (2**30,)))),
            W,
        ),
        "beyond int32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    body, reason = REFUSED[case]
    before, after, refusals = run(body)
    assert [r.node for r in refusals] == ["conv"]
    assert reason in refusals[0].reason
    assert [n for n in ops(after) if n.startswith("qnn.")] == [
        n for n in ops(before) if n.startswith("qnn.")
    ]


def test_weights_of_more_than_8_bits_are_refused():
    codes = np.arange(216).reshape(6, 4, 3, 3) * 151 + np.arange(216).reshape(6, 4, 3, 3) % 2

    def body(emit, x):
        w = emit(build.dequantize(build.const(codes, "uint16"), QType(Codes(0, 65535), (0.5,))))
        return conv(emit, quantized(emit, x, ACTIVATIONS), w)

    _, _, refusals = run(body)
    assert "its weights have 14 bits" in refusals[0].reason


def test_weights_that_are_multiples_need_fewer_bits_than_they_are_stored_in():
    def body(emit, x):
        stored = build.const(KERNEL * 300, "int16")
        w = emit(build.dequantize(stored, QType(SIXTEEN.codes, (0.5,))))
        return conv(emit, quantized(emit, x, ACTIVATIONS), w)

    _, after, refusals = run(body)
    assert refusals == []
    assert codes_of(attrs_of(call_of(after, "qnn.conv2d")), "w_") == Codes(-900, 900, 300)


GRIDS = {
    "ternary": ([-1.0, 0.0, 1.0], 1.0),
    "ternary with a scale": (np.float32(0.1) * np.array([-1, 0, 1], np.float32), 0.1),
    "an even number of states": ([-1.5, -0.5, 0.5, 1.5], 0.5),
    "bipolar": ([-0.37, 0.37, 0.37], 0.37),
    "thirds": (np.array([-2, -1, 1, 2, 3], np.float32) / np.float32(3), 1 / 3),
    "multiples without the unit": ([0.2, 0.3, -0.5], 0.1),
    "8 bits": (np.arange(-127, 128) * 0.015625, 0.015625),
    "zeros": ([0.0, -0.0, 0.0], 1.0),
}


@pytest.mark.parametrize("case", GRIDS)
def test_grids(case):
    given, unit = GRIDS[case]
    values = np.asarray(given, np.float32)
    found = grid_of(values.reshape(1, -1))
    assert found.codebook is None
    assert found.scale == pytest.approx((unit,), rel=1e-6)
    back = found.dequantize(found.quantize(values))
    assert np.abs(back - values).max() <= 2.4e-7 * np.abs(values).max()


def test_grids_per_channel():
    scales = np.array([0.1, 0.37, 5.0, 0.011], np.float32)[:, None, None]
    codes = np.random.default_rng(0).integers(-7, 8, [4, 5, 3])
    codes[:, 0, :2] = 1, 7
    found = grid_of((codes * scales).astype(np.float32))
    assert found.axis == 0
    assert found.scale == pytest.approx(scales.ravel().tolist())
    assert (found.quantize((codes * scales).astype(np.float32)) == codes).all()


def test_values_on_no_grid_are_a_codebook_or_nothing():
    rng = np.random.default_rng(0)
    few = rng.standard_normal(16).astype(np.float32)
    found = grid_of(few[rng.integers(0, 16, [20, 30])])
    assert found.codebook == (tuple(sorted(map(float, few))),)
    assert grid_of(rng.standard_normal([20, 17]).astype(np.float32)) is None
    assert grid_of(np.array([[1.0, np.inf]], np.float32)) is None
    # 128 steps are one too many, as a grid; three values make a codebook.
    assert grid_of(np.array([[1.0, 128.0, 3.0]], np.float32)).codebook is not None


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([-1, 0, 1], Codes(-1, 1)),
        ([-3, 3, 1], Codes(-3, 3, 2)),
        ([4, 8, 16], Codes(4, 16, 4)),
        ([5, 5], Codes(0, 5)),
        ([-5, -5], Codes(-5, 0)),
        ([0], Codes(0, 1)),
        ([], Codes(-128, 0)),
    ],
)
def test_codes_are_narrowed_to_those_that_occur(codes, expected):
    found = narrowed(np.array(codes, int), INT8)
    assert found == expected
    assert found.contains(codes)
