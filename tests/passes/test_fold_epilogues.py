"""fold_epilogues: one requantization for everything up to the next quantizer."""

import numpy as np
import pytest

from tests.passes.relax_modules import INT8, UINT8, call_of, floats, module, ops, outputs, same
from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of
from tvm_qnn.passes.fold_epilogues import MOST_THRESHOLD_CODES, fold_epilogues
from tvm_qnn.passes.rewrite import constant
from tvm_qnn.spec import Codes, QType

SHAPE = [1, 4, 4, 3]
ROWS = np.random.default_rng(0).integers(-3, 4, [3, 2, 2, 3])


def accumulators(emit, x):
    """An int32 convolution of the input, which holds codes."""
    return emit(
        build.conv2d(
            x, build.const(ROWS, "int8"), x_codes=UINT8, x_zero=100, w_codes=Codes(-3, 3),
            w_zero=[0], strides=[1, 1], padding=(0, 0, 0, 0), dilation=[1, 1], groups=1,
        )
    )  # fmt: skip


def scaled(emit, x, mul=0.125, add=0.0):
    return emit(build.affine(accumulators(emit, x), np.atleast_1d(mul), np.atleast_1d(add)))


def run(body, shape=SHAPE):
    """Fold a module and check that it still computes the same: all numbers here are exact."""
    before = module(shape, body, "uint8")
    after = fold_epilogues(before)
    for seed in (1, 2):
        x = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert (a == b).all()
    return after


def integer(mod):
    """Tell whether nothing but integer operators and casts is left."""
    kept = ("qnn.conv2d", "qnn.requantize", "qnn.threshold", "astype", "reshape")
    return set(ops(mod)) <= set(kept)


def test_before_and_expected():
    def before(emit, x):
        y = scaled(emit, x, [0.5, 0.25, 1.0])
        y = emit(relax.op.add(y, floats([1.0, 2.0, -3.0])))
        y = emit(relax.op.multiply(emit(relax.op.nn.relu(y)), floats(0.5)))
        return emit(build.quantize(y, QType(UINT8, (2.0,), (3,))))

    def expected(emit, x):
        acc = accumulators(emit, x)
        mul, add = [0.125, 0.0625, 0.25], [0.25, 0.5, -0.75]
        return emit(build.requantize(acc, mul, add, Codes(3, 255), 3, "half_even"))

    same(fold_epilogues(module(SHAPE, before, "uint8")), module(SHAPE, expected, "uint8"))


SCALARS = [lambda y: relax.op.multiply(y, floats(-2.0)), lambda y: relax.op.divide(y, floats(-4.0)),
           lambda y: relax.op.add(floats(-3.5), y), relax.op.nn.relu,
           lambda y: relax.op.clip(y, -2.25, 11.5), lambda y: relax.op.clip(y, 3, 7),
           lambda y: relax.op.maximum(y, floats(-1.75)),
           lambda y: relax.op.minimum(floats(9.5), y)]  # fmt: skip
CHANNELS = [lambda y: relax.op.multiply(y, floats([-1.0, 0.5, 2.0])),
            lambda y: relax.op.multiply(floats([[[[-1.0, 0.0, 2.0]]]]), y),
            lambda y: relax.op.add(y, floats([0.5, -8.0, 3.0]))]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_chains_of_scalars_fold_whatever_their_order(seed):
    rng = np.random.default_rng(seed)
    steps = [CHANNELS[i] for i in rng.integers(0, len(CHANNELS), rng.integers(0, 3))]
    steps += [SCALARS[i] for i in rng.integers(0, len(SCALARS), rng.integers(1, 5))]
    kind = [UINT8, INT8, Codes(0, 3), Codes(-2, 1), Codes(0, 14)][seed % 5]
    zero = int(rng.choice([0, kind.lo, kind.hi, int(rng.integers(kind.lo, kind.hi + 1))]))
    scale = float(rng.choice([0.25, 1.0, 4.0]))

    def body(emit, x):
        y = scaled(emit, x, [0.5, -0.25, 1.0])
        for step in steps:
            y = emit(step(y))
        return emit(build.quantize(y, QType(kind, (scale,), (zero,))))

    after = run(body)
    assert integer(after) or single_state(after)


def single_state(mod):
    """Bounds that leave one code keep their float operators."""
    return "qnn.quantize" in ops(mod)


@pytest.mark.parametrize("steps", [[0, 3], [1, 3], [3, 1], [3, 2, 4], [0, 4, 1]])
def test_bounds_that_differ_between_channels_stay_float_but_right(steps):
    def body(emit, x):
        y = scaled(emit, x, [0.5, -0.25, 1.0])
        for step in steps:
            y = emit((CHANNELS + SCALARS[3:])[step](y))
        return emit(build.quantize(y, QType(INT8)))

    run(body)


def test_a_factor_of_0_does_not_keep_the_other_channels_float():
    def body(emit, x):
        y = emit(relax.op.nn.relu(scaled(emit, x)))
        y = emit(relax.op.multiply(y, floats([0.5, 0.0, 2.0])))
        return emit(build.quantize(y, QType(UINT8, (1.0,), (3,))))

    after = run(body)
    assert ops(after) == ["qnn.conv2d", "qnn.requantize"]
    assert constant(call_of(after, "qnn.requantize").args[1]).tolist() == [0.0625, 0.0, 0.25]


@pytest.mark.parametrize(
    ("low", "high", "codes"),
    [(0, 1.5, Codes(0, 3)), (-9, 0.7, Codes(0, 1)), (0.3, 200.2, Codes(1, 255)),
     (0.25, 0.75, Codes(0, 2)), (-3, 500, UINT8)],
)  # fmt: skip
def test_bounds_become_codes(low, high, codes):
    def body(emit, x):
        y = emit(relax.op.clip(scaled(emit, x), low, high))
        return emit(build.quantize(y, QType(UINT8, (0.5,))))

    after = run(body)
    assert codes_of(attrs_of(call_of(after, ops(after)[-1]))) == codes


def test_clamped_codes_are_stored_as_their_readers_expect():
    def body(emit, x):
        return emit(build.quantize(emit(relax.op.nn.relu(scaled(emit, x))), QType(INT8)))

    after = run(body)
    assert ops(after) == ["qnn.conv2d", "qnn.requantize", "astype"]
    assert codes_of(attrs_of(call_of(after, "qnn.requantize"))) == Codes(0, 127)


def test_bounds_that_leave_one_code_stay():
    def body(emit, x):
        y = emit(relax.op.clip(scaled(emit, x), 3.1, 3.2))
        return emit(build.quantize(y, QType(INT8)))

    assert ops(run(body)) == ["qnn.conv2d", "qnn.affine", "clip", "qnn.quantize"]


@pytest.mark.parametrize("count", [2, MOST_THRESHOLD_CODES, MOST_THRESHOLD_CODES + 1])
@pytest.mark.parametrize("rounding", ["half_even", "floor"])
def test_few_codes_become_thresholds(count, rounding):
    def body(emit, x):
        y = scaled(emit, x, [0.25, -0.5, 0.0], [0.5, 1.0, 2.0])
        return emit(build.quantize(y, QType(Codes(-1, count - 2), (1.0,), (1,)), rounding))

    name = "threshold" if count <= MOST_THRESHOLD_CODES else "requantize"
    assert ops(run(body)) == ["qnn.conv2d", f"qnn.{name}"]


@pytest.mark.parametrize("codes", [Codes(-1, 1, 2), Codes(-3, 3, 2), Codes(-7, 7, 2)])
@pytest.mark.parametrize("bounds", [None, (-100, 100), (-1, 1)])
def test_codes_with_a_step(codes, bounds):
    def body(emit, x):
        y = scaled(emit, x, [0.25, -0.5, 0.125])
        if bounds is not None:
            y = emit(relax.op.clip(y, *bounds))
        return emit(build.quantize(y, QType(codes)))

    after = run(body)
    inside = bounds == (-1, 1) and codes.hi > 1
    assert integer(after) != inside


def test_a_reshape_that_keeps_the_channels_is_no_obstacle():
    def body(emit, x):
        y = emit(relax.op.reshape(scaled(emit, x, [0.5, 0.25, 1.0]), [9, 3]))
        y = emit(relax.op.add(y, floats([1.0, 2.0, 3.0])))
        return emit(build.quantize(y, QType(UINT8)))

    assert ops(run(body)) == ["qnn.conv2d", "qnn.requantize", "reshape"]


def test_a_reshape_that_mixes_channels_is_one():
    def body(emit, x):
        y = emit(relax.op.reshape(scaled(emit, x), [27]))
        return emit(build.quantize(y, QType(UINT8)))

    assert ops(run(body)) == ["qnn.conv2d", "qnn.affine", "reshape", "qnn.quantize"]


def test_constants_along_other_axes_stay_float():
    def body(emit, x):
        y = emit(relax.op.add(scaled(emit, x), floats(np.ones([3, 1]))))
        return emit(build.quantize(y, QType(UINT8)))

    assert "add" in ops(run(body))


def test_quantizers_per_channel_stay():
    def body(emit, x):
        qtype = QType(UINT8, (1.0, 2.0, 4.0), axis=3)
        return emit(build.quantize(scaled(emit, x), qtype))

    assert ops(run(body)) == ["qnn.conv2d", "qnn.affine", "qnn.quantize"]


def test_two_readers_of_one_accumulator():
    def body(emit, x):
        y = scaled(emit, x)
        positive = emit(build.quantize(emit(relax.op.nn.relu(y)), QType(UINT8)))
        few = emit(build.quantize(y, QType(Codes(0, 3), (4.0,))))
        return [positive, few, emit(relax.op.add(y, floats([1.0, 2.0, 3.0]))), y]

    after = run(body)
    assert ops(after).count("qnn.conv2d") == 1
    assert sorted(ops(after)) == sorted(
        ["qnn.conv2d", "qnn.requantize", "qnn.threshold", "qnn.affine", "qnn.affine"]
    )


def test_what_ends_in_float_folds_into_one_affine():
    def body(emit, x):
        y = emit(relax.op.multiply(scaled(emit, x), floats([1.0, 0.0, -2.0])))
        return emit(relax.op.sigmoid(emit(relax.op.add(y, floats([1.0, 2.0, 3.0])))))

    after = run(body)
    assert ops(after) == ["qnn.conv2d", "qnn.affine", "sigmoid"]
    mul, add = (constant(a) for a in call_of(after, "qnn.affine").args[1:])
    assert (mul.dtype, mul.tolist()) == (np.float32, [0.125, 0.0, -0.25])
    assert (add.dtype, add.tolist()) == (np.float32, [1.0, 2.0, 3.0])


def test_scale_products_below_float32_survive_until_they_are_large_again():
    def body(emit, x):
        tiny = scaled(emit, x, 2.0**-180)
        y = emit(relax.op.multiply(emit(relax.op.multiply(tiny, floats(2.0**90))), floats(2.0**88)))
        return emit(build.quantize(y, QType(UINT8)))

    after = fold_epilogues(module(SHAPE, body, "uint8"))
    assert constant(call_of(after, "qnn.requantize").args[1]).tolist() == [0.25]


def test_factors_beyond_float32_stay_float():
    def body(emit, x):
        y = emit(relax.op.multiply(scaled(emit, x, 2.0**100), floats(2.0**100)))
        return emit(build.quantize(y, QType(UINT8)))

    after = fold_epilogues(module(SHAPE, body, "uint8"))
    assert "qnn.requantize" not in ops(after)


def test_rescaled_codes():
    def body(emit, x):
        y = emit(build.dequantize(x, QType(UINT8, (0.25,), (7,))))
        return emit(build.quantize(emit(relax.op.nn.relu(y)), QType(INT8, (1.0,), (-100,))))

    after = run(body)
    assert ops(after)[0] == "qnn.requantize"
    assert codes_of(attrs_of(call_of(after, "qnn.requantize"))) == Codes(-100, 127)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", [UINT8, INT8, Codes(0, 3)])
@pytest.mark.parametrize("zero", [-5, 0, 2, 300])
def test_residual_additions(relu, kind, zero):
    def body(emit, x):
        a = emit(build.dequantize(x, QType(UINT8, (0.25,), (7,))))
        other = emit(build.requantize(accumulators(emit, x), [0.5], [0.0], INT8, -9, "half_even"))
        other = emit(relax.op.concat([other, other], 1))
        b = emit(build.dequantize(other, QType(INT8, (2.0,), (-9,))))
        y = emit(relax.op.add(emit(relax.op.strided_slice(a, [1, 2], [0, 0], [4, 3])),
                              emit(relax.op.strided_slice(b, [1], [0], [4]))))  # fmt: skip
        y = emit(relax.op.nn.relu(y)) if relu else y
        return emit(build.quantize(y, QType(kind, (0.5,), (zero,))))

    run(body)


def addition(a_type, b_type, codes, zero, relu):
    def body(emit, x):
        a = emit(build.dequantize(x, a_type))
        moved = emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
        y = emit(relax.op.add(a, emit(build.dequantize(moved, b_type))))
        y = emit(relax.op.nn.relu(y)) if relu else y
        return emit(build.quantize(y, QType(codes, (0.5,), (zero,))))

    return body


@pytest.mark.parametrize(
    ("codes", "zero", "relu", "folded"),
    [
        (UINT8, 9, False, Codes(0, 255)),
        (UINT8, 9, True, Codes(9, 255)),
        (UINT8, -9, True, Codes(0, 255)),
        (INT8, -128, True, INT8),
        (INT8, 3, True, Codes(3, 127)),
        (UINT8, 300, True, None),
        (Codes(-3, 3, 2), 0, False, None),
    ],
)
def test_which_residual_additions_fold(codes, zero, relu, folded):
    types = QType(UINT8, (0.25,), (7,)), QType(UINT8, (2.0,), (100,))
    after = run(addition(*types, codes, zero, relu))
    if folded is None:
        assert "qnn.add" not in ops(after)
    else:
        assert codes_of(attrs_of(call_of(after, "qnn.add"))) == folded


def test_additions_of_channels_with_scales_of_their_own_stay():
    types = QType(UINT8, (0.25, 0.5, 1.0), axis=3), QType(UINT8, (2.0,))
    assert "qnn.add" not in ops(run(addition(*types, UINT8, 3, False)))


def test_a_bias_behind_a_reshaped_product_is_folded():
    """As after a matrix product with a codebook, which is an image of one row."""

    def body(emit, x):
        y = emit(relax.op.reshape(scaled(emit, x, 0.25), [9, 3]))
        return emit(relax.op.add(y, floats([1.0, 2.0, -3.0])))

    after = run(body)
    assert ops(after) == ["qnn.conv2d", "qnn.affine", "reshape"]
