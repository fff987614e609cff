"""Types of the ``qnn.fixed_*`` operators, what they refuse, and their evaluation."""

import numpy as np
import pytest

from tvm_qnn import spec
from tvm_qnn._tvm import relax, tvm
from tvm_qnn.evaluate import evaluate
from tvm_qnn.ops import attrs_of, fixed
from tvm_qnn.ops.fixed import FIXED_OPERATORS, format_of
from tvm_qnn.ops.fixed_work import fixed_work
from tvm_qnn.spec import FixedPoint

Q2_5, Q5_7 = FixedPoint(2, 5), FixedPoint(5, 7)


def var(shape, dtype="int8"):
    return relax.Var("x", relax.TensorType(shape, dtype))


def typed(call):
    found = relax.BlockBuilder().normalize(call).ty
    return [int(d.value) for d in found.shape], str(found.dtype)


MEMORY, KEY, WORDS = var([2, 5, 7]), var([2, 7]), var([2, 5, 4], "int32")
P, USED = var([2, 5]), var([2, 5], "bool")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (fixed.convert(MEMORY, Q2_5, Q5_7), ([2, 5, 7], "int16")),
        (fixed.convert(var([3], "int16"), Q5_7, Q2_5), ([3], "int8")),
        (fixed.bag(var([9, 7]), WORDS, Q2_5), ([2, 5, 7], "int8")),
        (fixed.bag(var([9, 7], "int16"), var([4], "int32"), Q5_7), ([7], "int16")),
        (fixed.valid(WORDS), ([2, 5], "bool")),
        (fixed.dense(var([3, 7]), KEY, Q2_5, binary=True), ([2, 3], "int8")),
        (fixed.dense(var([3, 7]), MEMORY, Q2_5), ([2, 5, 3], "int8")),
        (fixed.similarity(MEMORY, KEY, Q2_5), ([2, 5], "int8")),
        (fixed.hamming(MEMORY, KEY, Q2_5), ([2, 5], "int8")),
        (fixed.softmax(P, USED, Q2_5), ([2, 5], "int8")),
        (fixed.read(P, MEMORY, Q2_5), ([2, 7], "int8")),
        (fixed.add(KEY, KEY, Q2_5), ([2, 7], "int8")),
        (fixed.output(var([11, 7], "float32"), KEY, Q2_5), ([2, 11], "float32")),
    ],
)
def test_types(call, expected):
    assert typed(call) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (fixed.convert(MEMORY, Q5_7, Q2_5), "qnn.fixed_convert: codes of dtype int8, Q5.7 is"),
        (fixed.bag(MEMORY, WORDS, Q2_5), "a table of shape .2, 5, 7., 2 dimensions"),
        (fixed.bag(KEY, var([2, 5], "int64"), Q2_5), "words of dtype int64 where int32"),
        (fixed.bag(KEY, var([], "int32"), Q2_5), "at least 1 dimensions"),
        (fixed.dense(var([3, 6]), KEY, Q2_5), "columns of the keys .* .7. and .6. do not fit"),
        (fixed.similarity(MEMORY, var([1, 7]), Q2_5), "keys and the slots"),
        (fixed.hamming(MEMORY, KEY, Q2_5, alpha=9), "alpha 9 with Q2.5"),
        (fixed.hamming(MEMORY, var([2, 6]), Q2_5), "do not fit"),
        (fixed.softmax(P, P, Q2_5), "used slots of dtype int8 where bool"),
        (fixed.softmax(P, var([2, 4], "bool"), Q2_5), "used slots and scores"),
        (fixed.read(var([2, 4]), MEMORY, Q2_5), "weights of slots and a memory"),
        (fixed.read(P, var([2, 5, 7], "int16"), Q2_5), "a memory of dtype int16"),
        (fixed.add(KEY, P, Q2_5), "shapes of a sum"),
        (fixed.output(var([3, 7]), KEY, Q2_5), "weights of dtype int8 where float32"),
        (
            fixed.read(var([1, 65539], "int16"), var([1, 65539, 2], "int16"), FixedPoint(0, 15)),
            "sums of 65539 numbers of Q0.15 can reach 2147516413, beyond int32",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(TypeError, match=message):
        typed(call)


def test_formats_survive_as_attributes():
    attrs = attrs_of(fixed.convert(MEMORY, Q2_5, Q5_7))
    assert (format_of(attrs, "src_"), format_of(attrs)) == (Q2_5, Q5_7)


def test_every_operator_is_pure_and_names_a_definition():
    for name, (_, doc) in FIXED_OPERATORS.items():
        assert tvm.ir.Op.get(name).get_attr("FPurity")
        assert hasattr(spec, doc.partition("(")[0].removeprefix("spec."))


def test_evaluation_is_the_definition():
    """One hop of a memory network, operator after operator."""
    rng = np.random.default_rng(5)
    table = rng.integers(-127, 128, (9, 7)).astype(np.int8)
    weights = rng.integers(-127, 128, (7, 7)).astype(np.int8)
    out = rng.normal(size=(4, 7)).astype(np.float32)
    story = rng.integers(0, 9, (2, 5, 4)).astype(np.int32)
    story[0, 3:] = 0
    builder, words = relax.BlockBuilder(), relax.Var("story", relax.TensorType([2, 5, 4], "int32"))
    with builder.function("main", [words]):
        memory = builder.emit(fixed.bag(relax.const(table), words, Q2_5), "memory")
        used = builder.emit(fixed.valid(words), "used")
        key = builder.emit(relax.op.reshape(relax.op.strided_slice(memory, [1], [0], [1]), [2, 7]))
        score = builder.emit(fixed.hamming(memory, key, Q2_5), "score")
        p = builder.emit(fixed.softmax(score, used, Q2_5), "p")
        wide = builder.emit(fixed.convert(memory, Q2_5, Q5_7), "wide")
        back = builder.emit(fixed.convert(wide, Q5_7, Q2_5), "back")
        read = builder.emit(fixed.read(p, back, Q2_5), "read")
        mapped = builder.emit(fixed.dense(relax.const(weights), key, Q2_5, True), "mapped")
        total = builder.emit(fixed.add(mapped, read, Q2_5), "total")
        again = builder.emit(fixed.similarity(memory, total, Q2_5, True), "again")
        logits = builder.emit(fixed.output(relax.const(out), total, Q2_5), "logits")
        builder.emit_func_output(relax.Tuple([again, logits]))
    found = evaluate(builder.get(), {"story": story})
    m = spec.fixed_bag(table, story, Q2_5)
    k = m[:, 0]
    p = spec.fixed_softmax(spec.hamming_similarity(m, k, Q2_5), spec.fixed_valid(story), Q2_5)
    u = spec.fixed_dense(weights, k, Q2_5, binary=True)
    k = spec.fixed_add(u, spec.fixed_read(p, m, Q2_5), Q2_5)
    assert (found["p"] == p).all()
    assert (p[0, 3:] == 0).all()
    assert (found["total"] == k).all()
    assert (found[""][0] == spec.fixed_similarity(m, k, Q2_5, binary=True)).all()
    assert (found[""][1] == spec.fixed_output(out, k, Q2_5)).all()


def test_work_counts_products_and_weights():
    rows = relax.const(np.ones((3, 7), np.int8))
    builder = relax.BlockBuilder()
    cases = [
        (fixed.dense(rows, MEMORY, Q2_5), (2 * 5 * 3 * 7, 8, 8, 21)),
        (fixed.dense(var([3, 7]), KEY, Q2_5), (2 * 3 * 7, 8, 0, 0)),
        (fixed.hamming(MEMORY, KEY, Q2_5), (2 * 5 * 7, 8, 0, 0)),
        (fixed.read(P, MEMORY, Q2_5), (2 * 5 * 7, 8, 0, 0)),
        (fixed.bag(rows, WORDS, Q2_5), (0, 8, 8, 21)),
        (fixed.output(relax.const(np.ones((4, 7), np.float32)), KEY, Q2_5), (56, 8, 32, 112)),
        (fixed.valid(WORDS), (0, 0, 0, 0)),
        (fixed.bag(relax.const(np.ones((3, 7), np.int8)), WORDS, FixedPoint(2, 2)), (0, 5, 5, 14)),
    ]
    for call, expected in cases:
        work = fixed_work(builder.normalize(call))
        found = (work.macs, work.activation_bits, work.weight_bits, work.weight_bytes)
        assert found == expected
