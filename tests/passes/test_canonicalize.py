"""canonicalize: one vocabulary for all frontends."""

import numpy as np
import pytest

from tests.passes.relax_modules import INT8, call_of, floats, module, ops, outputs, same
from tvm_qnn._tvm import relax
from tvm_qnn.errors import UnsupportedError
from tvm_qnn.ops import attrs_of, build, codes_of
from tvm_qnn.passes.canonicalize import canonicalize
from tvm_qnn.passes.rewrite import constant
from tvm_qnn.spec import Codes, QType

SHAPE = [1, 3, 2, 2]


def batch_norm(x, **options):
    gamma, beta, mean, variance = [2.0, 0.0, -1.0], [1.0, 2, 3], [4.0, 0, 1], [4.0, 1, 0.25]
    parts = (floats(v) for v in (gamma, beta, mean, variance))
    options = {"training": False, **options}
    return relax.op.nn.batch_norm(x, *parts, axis=1, epsilon=0.0, **options)


def test_batch_norm_becomes_a_factor_and_an_offset():
    def before(emit, x):
        return emit(relax.TupleGetItem(emit(batch_norm(x)), 0))

    def expected(emit, x):
        factor, offset = (np.reshape(v, (1, 3, 1, 1)) for v in ([1.0, 0, -2], [-3.0, 2, 5]))
        return emit(relax.op.add(emit(relax.op.multiply(x, floats(factor))), floats(offset)))

    same(canonicalize(module(SHAPE, before)), module(SHAPE, expected))


def test_batch_norm_without_scale_and_center():
    def before(emit, x):
        return emit(relax.TupleGetItem(emit(batch_norm(x, center=False, scale=False)), 0))

    mod = canonicalize(module(SHAPE, before))
    x = np.arange(12, dtype=np.float32).reshape(SHAPE)
    wide = [np.reshape(v, (1, 3, 1, 1)) for v in ([4.0, 0, 1], [2.0, 1, 0.5])]
    assert (outputs(mod, x)[0] == (x - wide[0]) / wide[1]).all()


def test_batch_norm_with_statistics_from_elsewhere_stays():
    def before(emit, x):
        mean = emit(relax.op.mean(x, [0, 2, 3]))
        one = floats([1.0, 1, 1])
        whole = emit(relax.op.nn.batch_norm(x, one, one, mean, one, axis=1, training=False))
        return emit(relax.TupleGetItem(whole, 0))

    assert "nn.batch_norm" in ops(canonicalize(module(SHAPE, before)))


def test_batch_norm_that_trains_stays():
    def before(emit, x):
        return emit(relax.TupleGetItem(emit(batch_norm(x, training=True)), 0))

    assert "nn.batch_norm" in ops(canonicalize(module(SHAPE, before)))


def test_quantize_of_tvm_becomes_ours():
    def before(emit, x):
        scale, zero = floats([0.5, 0.25, 1.0]), relax.const(np.array([1, 2, 3]), "int8")
        codes = emit(relax.op.quantize(x, scale, zero, axis=1, out_dtype="int8"))
        return emit(relax.op.dequantize(codes, scale, zero, axis=1))

    def expected(emit, x):
        qtype = QType(INT8, (0.5, 0.25, 1.0), (1, 2, 3), axis=1)
        return emit(build.dequantize(emit(build.quantize(x, qtype)), qtype))

    same(canonicalize(module(SHAPE, before)), module(SHAPE, expected))


def test_quantizers_of_tvm_that_cannot_be_ours():
    one, zero = floats(1.0), relax.const(np.array(0, "int8"))

    def dynamic(emit, x):
        scale = emit(relax.op.max(x))
        return emit(relax.op.quantize(x, scale, zero, out_dtype="int8"), "q")

    def small_floats(emit, x):
        return emit(
            relax.op.quantize(x, one, relax.const(np.float16(0)), out_dtype="float8_e4m3fn"), "q"
        )

    def half(emit, x):
        wide = emit(relax.op.astype(x, "float16"))
        return emit(relax.op.quantize(wide, one, zero, out_dtype="int8"), "q")

    for body, message in (
        (dynamic, "q: its scale or zero point is not a constant"),
        (small_floats, "q: float32 values as float8_e4m3fn codes"),
        (half, "q: float16 values as int8 codes"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            canonicalize(module(SHAPE, body))


def test_subtraction_of_a_constant_becomes_addition():
    def before(emit, x):
        return emit(relax.op.subtract(x, floats(2.5)))

    def expected(emit, x):
        return emit(relax.op.add(x, floats(-2.5)))

    same(canonicalize(module(SHAPE, before)), module(SHAPE, expected))


def test_subtraction_from_a_constant_stays():
    mod = module(SHAPE, lambda emit, x: emit(relax.op.subtract(floats(2.5), x)))
    same(canonicalize(mod), mod)


def test_codebooks_become_lookups():
    def before(emit, x):
        index = relax.const(np.array([[0, 2], [1, 1]]), "int64")
        table = emit(relax.op.take(floats([0.5, -1.5, 7.0]), index, axis=0))
        return emit(relax.op.matmul(x, table))

    mod = canonicalize(module([1, 2], before))
    lookup = call_of(mod, "qnn.lookup")
    assert constant(lookup.args[0]).tolist() == [[0, 2], [1, 1]]
    assert constant(lookup.args[0]).dtype == np.uint8
    assert constant(lookup.args[1]).tolist() == [0.5, -1.5, 7.0]
    assert codes_of(attrs_of(lookup)) == Codes(0, 2)


def test_indices_outside_of_the_table_are_no_codebook():
    # What they pick depends on the mode.
    def before(emit, x):
        index = relax.const(np.array([-1, 0]), "int64")
        return emit(relax.op.add(x, emit(relax.op.take(floats([1.0, 2.0]), index, mode="clip"))))

    mod = canonicalize(module([2], before))
    assert "qnn.lookup" not in ops(mod)
    assert outputs(mod, np.zeros(2, np.float32))[0].tolist() == [1.0, 1.0]


def test_constant_arithmetic_is_evaluated_but_not_the_types_of_weights():
    def before(emit, x):
        scaled = emit(relax.op.multiply(floats([3.0, 4.0]), floats(2.0)))
        codes = build.const(np.array([1, -1]), "int8")
        typed = emit(build.dequantize(codes, QType(INT8, (0.5,))))
        return emit(relax.op.add(emit(relax.op.add(x, scaled)), typed))

    def expected(emit, x):
        codes = build.const(np.array([1, -1]), "int8")
        typed = emit(build.dequantize(codes, QType(INT8, (0.5,))))
        return emit(relax.op.add(emit(relax.op.add(x, floats([6.0, 8.0]))), typed))

    mod, wanted = canonicalize(module([2], before)), module([2], expected)
    assert sorted(ops(mod)) == sorted(ops(wanted)) == ["add", "add", "qnn.dequantize"]
    assert (outputs(mod, np.ones(2, np.float32))[0] == [7.5, 8.5]).all()


def test_constants_are_quantized():
    qtype = QType(INT8, (0.5, 0.25), (0, 3), axis=0)

    def before(emit, x):
        turned = emit(relax.op.permute_dims(floats([[0.3, 9.0, -0.26], [0.1, -100, 0.125]])))
        codes = emit(build.quantize(emit(relax.op.permute_dims(turned)), qtype))
        typed = emit(build.dequantize(codes, qtype))
        return emit(relax.op.matmul(typed, x))

    mod = canonicalize(module([3, 1], before))
    assert ops(mod) == ["qnn.dequantize", "matmul"]
    codes = constant(call_of(mod, "qnn.dequantize").args[0])
    assert codes.dtype == np.int8
    assert codes.tolist() == [[1, 18, -1], [3, -128, 3]]


def test_dropout_vanishes():
    def before(emit, x):
        return emit(relax.TupleGetItem(emit(relax.op.nn.dropout(x, 0.5)), 0))

    assert ops(canonicalize(module([2], before))) == []


def test_division_by_zero_is_refused_by_name():
    def body(emit, x):
        return emit(relax.op.divide(x, floats(0.0)))

    with pytest.raises(UnsupportedError, match="divides by the constant 0"):
        canonicalize(module(SHAPE, body))
