"""infer_quantization: what is proven to be quantized, and what only looks like it."""

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
from tvm_qnn.spec import Codes, QType


def test_a_clip_before_the_quantizer_narrows_its_codes():
    def before(emit, x):
        return quantized(emit, emit(relax.op.clip(x, 0, 1.5)), QType(UINT8, (0.5,), (3,)))

    def expected(emit, x):
        return quantized(emit, emit(relax.op.clip(x, 0, 1.5)), QType(Codes(3, 6), (0.5,), (3,)))

    same(run(before)[1], module(SHAPE, expected))


def test_narrowing_per_channel_covers_all_channels():
    def before(emit, x):
        qtype = QType(INT8, (0.5, 0.25), (0, 7), axis=1)
        return quantized(emit, emit(relax.op.clip(x, -1, 1)), qtype)

    old, new = run(before)
    assert codes_of(attrs_of(call_of(new, "qnn.quantize"))) == Codes(-2, 11)
    unchanged(old, new, values())


@pytest.mark.parametrize(("rounding", "codes"), [("floor", (-2, 1)), ("ceil", (-1, 2))])
def test_narrowing_rounds_as_the_quantizer_does(rounding, codes):
    def before(emit, x):
        clipped = emit(relax.op.clip(x, -1.25, 1.25))
        return emit(build.dequantize(emit(build.quantize(clipped, QType(INT8), rounding)),
                                     QType(INT8)))  # fmt: skip

    old, new = run(before)
    assert codes_of(attrs_of(call_of(new, "qnn.quantize"))) == Codes(*codes)
    unchanged(old, new, values())


def test_narrowing_counts_float32_rounding():
    # In real numbers 0.35 * (1 / 0.1) stays below the tie of 3.5, in float32 it reaches it.
    bound, factor = np.float32(0.35), np.float32(1 / np.float32(0.1))
    assert float(bound) * float(factor) != float(bound * factor)

    def before(emit, x):
        clipped = emit(relax.op.clip(x, 0, 0.35))
        return quantized(emit, emit(relax.op.multiply(clipped, floats(factor))), QType(UINT8))

    old, new = run(before, [1])
    high = codes_of(attrs_of(call_of(new, "qnn.quantize"))).hi
    assert high == int(np.rint(bound * factor))
    unchanged(old, new, np.array([5.0], np.float32))


def test_codes_change_their_dtype_behind_a_cast_for_those_who_read_them():
    def before(emit, x):
        codes = emit(build.quantize(emit(relax.op.nn.relu(x)), QType(INT8, (0.5,))))
        return [codes, emit(build.dequantize(codes, QType(INT8, (0.5,))))]

    old, new = run(before)
    assert type_of(new)[0] == Codes(0, 127)
    assert ops(new) == ["nn.relu", "qnn.quantize", "astype", "qnn.dequantize"]
    unchanged(old, new, values())


def test_without_other_readers_the_cast_is_gone():
    def before(emit, x):
        return quantized(emit, emit(relax.op.nn.relu(x)), QType(INT8, (0.5,)))

    def expected(emit, x):
        return quantized(emit, emit(relax.op.nn.relu(x)), QType(Codes(0, 127), (0.5,)))

    same(run(before)[1], module(SHAPE, expected))


def test_a_cast_that_changes_codes_is_not_looked_through():
    def before(emit, x):
        codes = emit(build.quantize(x, QType(UINT8)))
        return emit(build.dequantize(emit(relax.op.astype(codes, "int8")), QType(INT8)))

    old, new = run(before)
    assert "astype" in ops(new)
    unchanged(old, new, values() * 40)


@pytest.mark.parametrize("bounds", [(-1e9, 1e9), (0.1, 0.2)])
def test_wide_and_single_state_ranges_keep_their_codes(bounds):
    def before(emit, x):
        return quantized(emit, emit(relax.op.clip(x, *bounds)), HALVES)

    old, new = run(before)
    same(old, new)


@pytest.mark.parametrize(
    ("op", "rounding", "codes"),
    [
        (relax.op.round, "half_even", Codes(-2, 2)),
        (relax.op.floor, "floor", Codes(-3, 2)),
        (relax.op.ceil, "ceil", Codes(-2, 3)),
        (relax.op.trunc, "truncate", Codes(-2, 2)),
    ],
)
def test_rounding_of_a_bounded_value_is_a_quantizer(op, rounding, codes):
    def before(emit, x):
        return emit(op(emit(relax.op.clip(x, -2.5, 2.5))))

    def expected(emit, x):
        made = emit(build.quantize(emit(relax.op.clip(x, -2.5, 2.5)), QType(codes), rounding))
        return emit(build.dequantize(made, QType(codes)))

    same(run(before)[1], module(SHAPE, expected))


@pytest.mark.parametrize("bounds", [None, (0, 1e9), (65530, 70000), (3.2, 3.4)])
def test_rounding_stays_float_without_useful_bounds(bounds):
    def before(emit, x):
        return emit(relax.op.round(x if bounds is None else emit(relax.op.clip(x, *bounds))))

    old, new = run(before)
    same(old, new)


@pytest.mark.parametrize(
    ("change", "scale", "zero"),
    [
        (lambda q: relax.op.multiply(q, floats(4.0)), 2.0, 10),
        (lambda q: relax.op.multiply(floats([[[[4.0]]]]), q), 2.0, 10),
        (lambda q: relax.op.divide(q, floats(2.0)), 0.25, 10),
        (lambda q: relax.op.add(q, floats(1.5)), 0.5, 7),
        (lambda q: relax.op.add(floats(-100.0), q), 0.5, 210),
        (lambda q: relax.op.add(q, floats(0.0)), 0.5, 10),
    ],
)
def test_scalars_move_into_scale_and_zero_point(change, scale, zero):
    old, new = run(lambda emit, x: emit(change(quantized(emit, x, HALVES))))
    assert ops(new) == ["qnn.quantize", "qnn.dequantize"]
    assert type_of(new) == (UINT8, [scale], [zero])
    unchanged(old, new, values())


@pytest.mark.parametrize(
    "change",
    [
        lambda q: relax.op.multiply(q, floats(-1.0)),
        lambda q: relax.op.multiply(q, floats(0.0)),
        lambda q: relax.op.divide(q, floats(-2.0)),
        lambda q: relax.op.divide(floats(1.0), q),
        lambda q: relax.op.multiply(q, floats([1.0, 2.0, 3.0, 4.0])),
        lambda q: relax.op.multiply(q, floats(np.ones([2, 1, 1, 1]))),
        lambda q: relax.op.multiply(q, floats(1e-38)),
        lambda q: relax.op.add(q, floats(0.3)),
        lambda q: relax.op.add(q, floats(1e-8)),
        lambda q: relax.op.add(q, floats(1e9)),
        lambda q: relax.op.clip(q, 1e-8, 100),
        lambda q: relax.op.clip(q, 0.3, 1.5),
        lambda q: relax.op.clip(q, 0.5, 0.5),
        relax.op.sigmoid,
    ],
)
def test_what_is_no_type_of_the_same_codes(change):
    def before(emit, x):
        return emit(change(quantized(emit, x, HALVES)))

    old, new = run(before)
    assert [n for n in ops(new) if not n.startswith("qnn.")] == ops(old)[2:]


def test_half_a_step_makes_bipolar_codes():
    def before(emit, x):
        rounded = emit(relax.op.round(emit(relax.op.clip(x, 0, 1))))
        doubled = emit(relax.op.multiply(rounded, floats(2.0)))
        return emit(relax.op.add(doubled, floats(-1.0)))

    old, new = run(before)
    assert type_of(new) == (Codes(-1, 1, 2), [1.0], [0])
    unchanged(old, new, values() / 4)


@pytest.mark.parametrize("levels", [2, 4, 16])
def test_symmetric_quantizers_with_an_even_number_of_states(levels):
    def before(emit, x):
        low = -(levels // 2)
        rounded = emit(relax.op.round(emit(relax.op.clip(x, low, low + levels - 1))))
        return emit(relax.op.multiply(emit(relax.op.add(rounded, floats(0.5))), floats(0.25)))

    x = np.linspace(-10, 10, 161, dtype=np.float32)
    old, new = run(before, [161])
    unchanged(old, new, x)
    if levels > 2:
        assert type_of(new) == (Codes(1 - levels, levels - 1, 2), [0.125], [0])


@pytest.mark.parametrize("op", [relax.op.round, relax.op.floor, relax.op.ceil, relax.op.trunc])
@pytest.mark.parametrize("low", [-3, -2, -1, 0, 1])
@pytest.mark.parametrize("offset", [0.5, -1.5])
def test_ties_survive_half_a_step(op, low, offset):
    def before(emit, x):
        rounded = emit(op(emit(relax.op.clip(x, low, low + 3))))
        return emit(relax.op.add(rounded, floats(offset)))

    old, new = run(before, [65])
    unchanged(old, new, (np.arange(65, dtype=np.float32) - 32) / 8)


def test_half_a_step_on_codes_of_another_source_stays_float():
    def before(emit, x):
        typed = emit(build.dequantize(x, QType(UINT8)))
        return emit(relax.op.add(typed, floats(0.5)))

    assert ops(run(before, dtype="uint8")[1]) == ["qnn.dequantize", "add"]
