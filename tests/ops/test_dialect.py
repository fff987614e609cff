"""Types of the ``qnn.*`` operators, and every call that type inference refuses."""

import numpy as np
import pytest

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.ops import OPERATORS, attrs_of, build, code_attrs, codes_of, is_op, make, shape_of
from tvm_qnn.spec import Codes, QType

BITS2, INT8, UINT8 = Codes(0, 3), Codes(-128, 127), Codes(0, 255)
BIPOLAR, TERNARY = Codes(-1, 1, 2), Codes(-1, 1)


def var(shape, dtype="uint8"):
    return relax.Var("x", relax.TensorType(shape, dtype))


def typed(call):
    """Return the shape and dtype that type inference finds."""
    found = relax.BlockBuilder().normalize(call).ty
    return [int(d.value) for d in found.shape], str(found.dtype)


def refused(call, message):
    with pytest.raises(TypeError, match=message):
        typed(call)


def constant(shape, codes=UINT8):
    return build.const(np.full(shape, codes.lo), codes.dtype)


CONV = {"strides": [1, 1], "padding": (0, 0, 0, 0), "dilation": [1, 1], "groups": 1}


def conv(x=None, w=None, x_codes=BITS2, w_codes=TERNARY, **changes):
    x = var([2, 9, 7, 6]) if x is None else x
    w = constant([5, 3, 2, 6], w_codes) if w is None else w
    given = {"x_zero": 0, "w_zero": [0], **CONV, **changes}
    return build.conv2d(x, w, x_codes=x_codes, w_codes=w_codes, **given)


def dense(x, w, x_codes=BITS2, w_codes=TERNARY, **changes):
    given = {"x_zero": 0, "w_zero": [0], **changes}
    return build.dense(x, w, x_codes=x_codes, w_codes=w_codes, **given)


def pool(x, kernel=(2, 3), codes=UINT8, **changes):
    given = {"strides": [2, 1], "padding": (1, 0, 0, 2), "dilation": [1, 1], **changes}
    return build.max_pool2d(x, kernel, codes=codes, **given)


def codebook_conv(x, w, table, x_codes=UINT8, **changes):
    given = {**CONV, "padding": [0, 0, 0, 0], **changes}
    return make(
        "qnn.codebook_conv2d", [x, w, table], **code_attrs(x_codes, "x_"), x_zero=0, **given
    )


FLOAT = var([2, 9, 7, 6], "float32")
ACC = var([2, 9, 7, 6], "int32")
CODES = var([2, 9, 7, 6])

TYPES = {
    "quantize": (lambda: build.quantize(FLOAT, QType(INT8, (0.5,))), [2, 9, 7, 6], "int8"),
    "quantize a scalar": (
        lambda: build.quantize(var([], "float32"), QType(Codes(-1, 200))), [], "int16"
    ),
    "quantize per axis": (
        lambda: build.quantize(FLOAT, QType(BIPOLAR, (0.5,) * 7, axis=2)), [2, 9, 7, 6], "int8"
    ),
    "dequantize": (lambda: build.dequantize(CODES, QType(UINT8)), [2, 9, 7, 6], "float32"),
    "lookup": (
        lambda: build.dequantize(CODES, QType(Codes(0, 1), codebook=((0.5, 1.5),))),
        [2, 9, 7, 6], "float32",
    ),
    "lookup per axis": (
        lambda: build.dequantize(CODES, QType(Codes(0, 1), axis=0, codebook=((1.0, 2.0),) * 2)),
        [2, 9, 7, 6], "float32",
    ),
    "conv2d": (conv, [2, 7, 6, 5], "int32"),
    "strided conv2d": (
        lambda: conv(strides=[2, 3], padding=(1, 0, 2, 1), dilation=[2, 1]), [2, 4, 3, 5], "int32"
    ),
    "grouped conv2d": (
        lambda: conv(w=constant([4, 1, 1, 3], TERNARY), groups=2), [2, 9, 7, 4], "int32"
    ),
    "conv2d of planes": (
        lambda: conv(var([2, 9, 7, 2, 1], "uint32"), x_layout="planes", channels=6),
        [2, 7, 6, 5], "int32",
    ),
    "codebook_conv2d": (
        lambda: codebook_conv(
            CODES, constant([5, 3, 2, 6]), build.const(np.zeros([1, 4]), "float32")
        ),
        [2, 7, 6, 5], "float32",
    ),
    "dense": (lambda: dense(var([3, 4, 6]), constant([5, 6], TERNARY)), [3, 4, 5], "int32"),
    "dense of planes": (
        lambda: dense(
            var([3, 2, 1], "uint32"), constant([5, 6], TERNARY), x_layout="planes", channels=6
        ),
        [3, 5], "int32",
    ),
    "affine": (lambda: build.affine(ACC, [2.0], np.ones(6)), [2, 9, 7, 6], "float32"),
    "requantize": (
        lambda: build.requantize(ACC, np.ones(6), [0.0], INT8, 3, "floor"), [2, 9, 7, 6], "int8"
    ),
    "requantize to bipolar codes": (
        lambda: build.requantize(ACC, [1.0], [0.0], BIPOLAR, 0, "ceil"), [2, 9, 7, 6], "int8"
    ),
    "threshold": (
        lambda: build.threshold(ACC, np.zeros([6, 3]), np.zeros(6), BITS2), [2, 9, 7, 6], "uint8"
    ),
    "add": (
        lambda: build.add(
            CODES, CODES, a_mul=1, b_mul=2, offset=3, codes=INT8, zero=0, rounding="half_even"
        ),
        [2, 9, 7, 6], "int8",
    ),
    "max_pool2d": (lambda: pool(CODES), [2, 5, 7, 6], "uint8"),
    "sum_pool2d": (
        lambda: build.sum_pool2d(
            CODES, [9, 7], codes=UINT8, zero=3, strides=[1, 1], padding=(0, 0, 0, 0)
        ),
        [2, 1, 1, 6], "int32",
    ),
    "pack": (lambda: build.pack(var([2, 33]), BITS2), [2, 2, 2], "uint32"),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPES)
def test_type(case):
    call, shape, dtype = TYPES[case]
    assert typed(call()) == (shape, dtype)


REFUSED = {
    "quantize of integers": (
        lambda: build.quantize(ACC, QType(INT8)), "qnn.quantize: dtype int32 where float32"
    ),
    "unknown rounding": (
        lambda: build.quantize(FLOAT, QType(INT8), "up"), "rounding 'up' is none of"
    ),
    "unknown rounding of accumulators": (
        lambda: build.requantize(ACC, [1.0], [0.0], INT8, 0, "up"), "rounding 'up' is none of"
    ),
    "scales that do not fit the axis": (
        lambda: build.quantize(FLOAT, QType(INT8, (1.0,) * 6, axis=1)),
        "6 parameters for axis 1 of length 9",
    ),
    "an axis beyond the rank": (
        lambda: build.dequantize(CODES, QType(UINT8, (1.0,) * 6, axis=4)),
        r"axis 4 of a tensor of shape \[2, 9, 7, 6\]",
    ),
    "scales without an axis": (
        lambda: make(
            "qnn.dequantize",
            [CODES, build.const(np.ones(6), "float32"), build.const(0, "int32")],
            **code_attrs(UINT8),
            axis=None,
        ),
        "6 parameters but no axis",
    ),
    "a matrix of scales": (
        lambda: make(
            "qnn.dequantize",
            [CODES, build.const(np.ones([1, 6]), "float32"), build.const(0, "int32")],
            **code_attrs(UINT8),
            axis=3,
        ),
        "scalar or vector is needed",
    ),
    "codes in another dtype": (
        lambda: build.dequantize(CODES, QType(INT8)),
        "qnn.dequantize: dtype uint8 where int8 is needed",
    ),
    "no codes at all": (
        lambda: make(
            "qnn.dequantize",
            [CODES, build.const(1.0, "float32"), build.const(0, "int32")],
            lo=3, hi=1, step=1, axis=None,
        ),
        r"no codes in \[3, 1\]",
    ),
    "a codebook of another size": (
        lambda: make(
            "qnn.lookup", [CODES, build.const(np.ones(3), "float32")], **code_attrs(BITS2),
            axis=None,
        ),
        "3 values for 4 codes",
    ),
    "codebook rows that do not fit": (
        lambda: build.dequantize(
            CODES, QType(Codes(0, 1), axis=1, codebook=((1.0, 2.0),) * 2)
        ),
        "codebook rows and axis",
    ),
    "weights in another dtype": (
        lambda: conv(w=constant([5, 3, 2, 6], UINT8)), "dtype uint8 where int8 is needed"
    ),
    "activations in another dtype": (
        lambda: conv(x_codes=INT8), "qnn.conv2d: dtype uint8 where int8 is needed"
    ),
    "other channels": (
        lambda: conv(w=constant([5, 3, 2, 5], TERNARY)),
        "6 input and 5 output channels in 1 groups of 5 input channels",
    ),
    "groups that do not divide": (
        lambda: conv(w=constant([5, 3, 2, 3], TERNARY), groups=2),
        "6 input and 5 output channels in 2 groups",
    ),
    "no groups": (lambda: conv(groups=0), "in 0 groups"),
    "a rank of 3": (lambda: conv(var([9, 7, 6])), "rank 4 needed"),
    "negative padding": (lambda: conv(padding=(0, -1, 0, 0)), r"negative padding \[0, -1, 0, 0\]"),
    "a kernel larger than the image": (
        lambda: conv(var([1, 2, 7, 6])), "a 3x2 kernel on a 2x7 image"
    ),
    "dilation beyond the image": (lambda: conv(dilation=[5, 1]), "a 3x2 kernel on a 9x7 image"),
    "sums beyond int32": (
        lambda: dense(
            var([1, 70000]), build.const(np.zeros([1, 70000]), "int8"), UINT8, INT8
        ),
        "qnn.dense: sums of 70000 products can reach 2284800000, beyond int32",
    ),
    "sums beyond int32 by a zero point": (
        lambda: conv(x_zero=-(2**31)), "beyond int32"
    ),
    "sums beyond int32 by one zero point of the weights": (
        lambda: conv(w_zero=[0, 0, 0, 0, 2**30]), "beyond int32"
    ),
    "other numbers of planes": (
        lambda: conv(var([2, 9, 7, 3, 1], "uint32"), x_layout="planes", channels=6),
        "3 bit planes of 2-bit codes",
    ),
    "planes for fewer channels": (
        lambda: dense(
            var([3, 2, 1], "uint32"), constant([5, 40], TERNARY), x_layout="planes", channels=40
        ),
        "1 words for 40 channels",
    ),
    "other numbers of planes in a product": (
        lambda: dense(
            var([3, 1, 1], "uint32"), constant([5, 6], TERNARY), x_layout="planes", channels=6
        ),
        "1 bit planes of 2-bit codes",
    ),
    "zero points for other channels": (
        lambda: conv(w_zero=[1, 2, 3]), "3 zero points for 5 output channels"
    ),
    "planes of bytes": (
        lambda: conv(var([2, 9, 7, 2, 1], "uint8"), x_layout="planes", channels=6), "uint32"
    ),
    "other columns": (
        lambda: dense(var([3, 5]), constant([4, 6], TERNARY)),
        r"qnn.dense: dense of shapes \[3, 5\] and \[4, 6\]",
    ),
    "indices that are no bytes": (
        lambda: codebook_conv(
            CODES, build.const(np.zeros([5, 3, 2, 6]), "int8"),
            build.const(np.zeros([1, 4]), "float32"),
        ),
        "dtype int8 where uint8",
    ),
    "a codebook for other channels": (
        lambda: codebook_conv(
            CODES, constant([5, 3, 2, 6]), build.const(np.zeros([3, 4]), "float32")
        ),
        r"a codebook of shape \[3, 4\]",
    ),
    "factors for other channels": (
        lambda: build.affine(ACC, np.ones(5), [0.0]), "5 parameters for axis -1 of length 6"
    ),
    "floats with factors of float16": (
        lambda: make(
            "qnn.affine", [ACC, build.const(1, "float16"), build.const(0, "float32")]
        ),
        "dtype float16",
    ),
    "thresholds for other codes": (
        lambda: build.threshold(ACC, np.zeros([6, 2]), np.zeros(6), BITS2),
        r"thresholds of shape \[6, 2\] for 6 channels of 4 codes",
    ),
    "thresholds for other channels": (
        lambda: build.threshold(ACC, np.zeros([5, 3]), np.zeros(5), BITS2), "for 6 channels"
    ),
    "thresholds of codes": (
        lambda: build.threshold(CODES, np.zeros([6, 3]), np.zeros(6), BITS2),
        "dtype uint8 where int32",
    ),
    "a sum of different shapes": (
        lambda: build.add(
            CODES, var([2, 9, 7, 5]), a_mul=1, b_mul=1, offset=0, codes=UINT8, zero=0,
            rounding="half_even",
        ),
        "different shapes",
    ),
    "pooling other codes": (lambda: pool(CODES, codes=INT8), "dtype uint8 where int8"),
    "a window larger than the image": (
        lambda: pool(CODES, (11, 2)), "a 11x2 kernel on a 9x7 image"
    ),
    "packing other codes": (lambda: build.pack(CODES, INT8), "dtype uint8 where int8"),
    "a dynamic shape": (
        lambda: pool(relax.Var("x", relax.TensorType([tvm.tirx.Var("n", "int64"), 9, 7, 6],
                                                     "uint8"))),
        "qnn.max_pool2d: dynamic shape .* fix the batch size",
    ),
    "an unknown shape": (
        lambda: build.pack(relax.Var("x", relax.TensorType(None, "uint8", ndim=2)), BITS2),
        "the rank and the shape must be known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    refused(call(), message)


def test_sums_at_the_end_of_int32_are_allowed():
    # 2**16 products of 255 * 128 are 2139095040 < 2**31.
    weights = build.const(np.zeros([1, 2**16]), "int8")
    assert typed(dense(var([1, 2**16]), weights, UINT8, INT8)) == ([1, 1], "int32")


def test_attributes_are_plain_python_values():
    call = relax.BlockBuilder().normalize(conv(w_zero=[1, 2, 3, 4, 5], padding=(1, 2, 3, 4)))
    attrs = attrs_of(call)
    assert attrs["w_zero"] == [1, 2, 3, 4, 5]
    assert attrs["padding"] == [1, 2, 3, 4]
    assert (codes_of(attrs, "x_"), codes_of(attrs, "w_")) == (BITS2, TERNARY)
    assert {type(v) for v in attrs.values()} <= {int, str, float, list}
    quantize = attrs_of(build.quantize(FLOAT, QType(BIPOLAR)))
    assert quantize["axis"] is None
    assert codes_of(quantize) == BIPOLAR


def test_is_op_tells_operators_apart():
    assert is_op(conv(), "qnn.dense", "qnn.conv2d")
    assert not is_op(conv(), "qnn.dense")
    assert not is_op(CODES, "qnn.conv2d")
    assert not is_op(None, "qnn.conv2d")


def test_shape_of():
    assert shape_of(CODES) == [2, 9, 7, 6]
    assert shape_of(var([])) == []


def test_every_operator_is_pure_and_has_a_type():
    for name in OPERATORS:
        op = tvm.ir.Op.get(name)
        assert op.get_attr("FPurity")
        assert op.get_attr("FInferType") is not None


def module():
    builder, x = relax.BlockBuilder(), var([1, 4, 4, 6], "float32")
    with builder.function("main", [x]):
        codes = builder.emit(build.quantize(x, QType(BITS2, (0.5,), (1,))))
        acc = builder.emit(conv(codes))
        rows = builder.emit(build.requantize(acc, [0.5], [0.25], INT8, 3, "half_even"))
        builder.emit_func_output(rows)
    return builder.get()


def test_modules_survive_json():
    # With apache-tvm-ffi 0.1.15 this ended in a segmentation fault.
    mod = module()
    again = tvm.ir.load_json(tvm.ir.save_json(mod))
    tvm.ir.assert_structural_equal(mod, again)
    call = again["main"].body.blocks[0].bindings[1].value
    assert attrs_of(call)["padding"] == [0, 0, 0, 0]


def test_modules_print_their_operators():
    text = str(module())
    for name in ("qnn.quantize", "qnn.conv2d", "qnn.requantize"):
        assert name in text or name.replace(".", "_") in text
