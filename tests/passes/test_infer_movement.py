"""infer_quantization: codes through data movement, clips and pools, and the bounds of values."""

import numpy as np
import pytest

from tests.passes.infer_cases import HALVES, SHAPE, run, type_of, unchanged, values
from tests.passes.relax_modules import (
    INT8,
    UINT8,
    call_of,
    floats,
    module,
    ops,
    quantized,
    same,
)
from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, codes_of
from tvm_qnn.passes.canonicalize import canonicalize
from tvm_qnn.passes.infer_quantization import infer_quantization
from tvm_qnn.spec import Codes, QType


@pytest.mark.parametrize(
    "move",
    [
        lambda v: relax.op.reshape(v, [2, 12]),
        lambda v: relax.op.permute_dims(v, [0, 2, 3, 1]),
        lambda v: relax.op.squeeze(v, [0]),
        lambda v: relax.op.expand_dims(v, 1),
        relax.op.flatten,
        lambda v: relax.op.strided_slice(v, [3], [1], [4], [2]),
    ],
)
def test_moves_move_codes(move):
    old, new = run(lambda emit, x: emit(move(quantized(emit, x, HALVES))))
    assert ops(new)[0] == "qnn.quantize"
    assert ops(new)[-1] == "qnn.dequantize"
    assert len(ops(new)) == 3
    unchanged(old, new, values())


def test_moves_of_channels_with_scales_of_their_own_stay():
    qtype = QType(UINT8, (0.5, 0.25), axis=1)
    old, new = run(
        lambda emit, x: emit(relax.op.permute_dims(quantized(emit, x, qtype), [0, 2, 3, 1]))
    )
    same(old, new)


@pytest.mark.parametrize(
    ("stored", "shape", "axis", "folds"),
    [
        ([2, 6], [2, 3, 1, 2], 0, True),
        ([2, 6], [2, 6], 0, True),
        ([2, 6], [4, 3], 0, False),
        ([6, 2], [6, 1, 2], 1, False),
    ],
)
def test_reshaped_rows_of_constants_keep_their_codebooks(stored, shape, axis, folds):
    books = ((-0.75, 0.125, 2.5), (0.5, 0.625, 0.875))
    weight = build.const(np.arange(12).reshape(stored) % 3, "uint8")

    def before(emit, x):
        looked = emit(build.dequantize(weight, QType(Codes(0, 2), axis=axis, codebook=books)))
        used = emit(relax.op.sum(emit(relax.op.reshape(looked, shape))))
        return emit(relax.op.add(x, used))

    old, new = run(before)
    assert ("reshape" in ops(new)) == (not folds)
    unchanged(old, new, values())


def test_concatenation_of_one_type_joins_codes():
    def before(emit, x):
        a, b = quantized(emit, x, HALVES), quantized(emit, emit(relax.op.negative(x)), HALVES)
        return emit(relax.op.concat([a, b], 2))

    old, new = run(before)
    assert ops(new)[-2:] == ["concat", "qnn.dequantize"]
    unchanged(old, new, values())


@pytest.mark.parametrize("other", [QType(UINT8, (0.25,), (10,)), QType(INT8, (0.5,), (10,)), None])
def test_concatenation_of_other_types_stays_float(other):
    def before(emit, x):
        b = x if other is None else quantized(emit, x, other)
        return emit(relax.op.concat([quantized(emit, x, HALVES), b], 1))

    old, new = run(before)
    assert ops(new)[-1] == "concat"
    unchanged(old, new, values())


def test_concatenation_of_a_split_value_stays():
    def before(emit, x):
        return emit(relax.op.concat(emit(relax.op.split(x, 2, axis=1)), axis=2))

    old, new = run(before)
    same(old, new)


@pytest.mark.parametrize(
    ("op", "codes"),
    [
        (relax.op.nn.relu, Codes(10, 255)),
        (lambda v: relax.op.clip(v, -1, 2.5), Codes(8, 15)),
        (lambda v: relax.op.clip(v, -1e9, 2.5), Codes(0, 15)),
        (lambda v: relax.op.clip(v, 0, 1e9), Codes(10, 255)),
    ],
)
def test_relu_and_clip_of_codes_clip_codes(op, codes):
    old, new = run(lambda emit, x: emit(op(quantized(emit, x, HALVES))))
    assert ops(new) == ["qnn.quantize", "clip", "qnn.dequantize"]
    assert type_of(new)[0] == codes
    unchanged(old, new, values() * 30)


def test_relu_of_signed_codes_may_change_their_dtype():
    qtype = QType(INT8, (0.5,))
    old, new = run(lambda emit, x: emit(relax.op.nn.relu(quantized(emit, x, qtype))))
    assert ops(new) == ["qnn.quantize", "clip", "astype", "qnn.dequantize"]
    assert type_of(new)[0] == Codes(0, 127)
    unchanged(old, new, values() * 30)


@pytest.mark.parametrize("zero", [-5, 0])
def test_relu_of_values_that_are_not_negative_vanishes(zero):
    old, new = run(
        lambda emit, x: emit(relax.op.nn.relu(quantized(emit, x, QType(UINT8, (0.5,), (zero,)))))
    )
    assert ops(new) == ["qnn.quantize", "qnn.dequantize"]
    unchanged(old, new, values())


def test_relu_of_negative_values_and_of_bipolar_codes_stays():
    for qtype in (QType(UINT8, (0.5,), (300,)), QType(Codes(-3, 3, 2))):
        _, new = run(lambda emit, x, q=qtype: emit(relax.op.nn.relu(quantized(emit, x, q))))
        assert ops(new)[-1] == "nn.relu"


def test_bounds_pass_through_scaling_pooling_and_maximum():
    def before(emit, x):
        y = emit(relax.op.sigmoid(x))
        y = emit(relax.op.nn.max_pool2d(y, [2, 2]))
        y = emit(relax.op.multiply(y, floats(-6.0)))
        y = emit(relax.op.maximum(emit(relax.op.add(y, floats(2.0))), floats(-3.0)))
        return quantized(emit, emit(relax.op.minimum(y, floats(1.0))), QType(INT8))

    old, new = run(before)
    assert codes_of(attrs_of(call_of(new, "qnn.quantize"))) == Codes(-3, 1)
    unchanged(old, new, values())


def test_division_by_an_interval_around_0_proves_nothing():
    def before(emit, x):
        y = emit(relax.op.divide(emit(relax.op.sigmoid(x)), emit(relax.op.tanh(x))))
        return quantized(emit, y, QType(INT8))

    old, new = run(before)
    same(old, new)


def test_the_whole_way_from_plain_arithmetic():
    def before(emit, x):
        y = emit(relax.op.subtract(x, floats(0.25)))
        y = emit(relax.op.clip(emit(relax.op.divide(y, floats(0.5))), 0, 3))
        return emit(relax.op.multiply(emit(relax.op.round(y)), floats(0.5)))

    new = infer_quantization(canonicalize(module(SHAPE, before)))
    assert type_of(new) == (Codes(0, 3), [0.5], [0])


@pytest.mark.parametrize(
    ("pool", "codes"),
    [
        (lambda x: relax.op.mean(x, axis=[2, 3]), Codes(1, 3)),
        (lambda x: relax.op.nn.adaptive_avg_pool2d(x, 1), Codes(1, 3)),
        (lambda x: relax.op.nn.avg_pool2d(x, 2, padding=1, count_include_pad=True), Codes(0, 3)),
    ],
)
def test_averages_stay_within_the_bounds_of_their_values(pool, codes):
    def body(emit, x):
        return emit(relax.op.round(emit(pool(emit(relax.op.clip(x, 1, 3))))))

    assert type_of(run(body)[1]) == (codes, [1.0], [0])
