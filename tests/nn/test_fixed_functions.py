"""ONNX Runtime computes the bodies of the fixed-point functions as they are defined."""

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.nn.fixed_models import codes, one_function, run_onnx
from tvm_qnn import spec
from tvm_qnn.frontend.fixed_functions import functions
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import softmax_table

FORMATS = [
    FixedPoint(*parts)
    for parts in [(2, 5), (3, 4), (1, 6), (5, 2), (6, 1), (4, 3), (0, 7), (7, 0), (0, 1), (1, 0),
                  (0, 15), (15, 0), (5, 7)]
]  # fmt: skip
BY_FORMAT = pytest.mark.parametrize("fmt", FORMATS, ids=str)


def computed(op, inputs, expected, **attributes):
    model = one_function(op, inputs, (expected.dtype, expected.shape), **attributes)
    onnx.checker.check_model(model, full_check=True)
    return run_onnx(model, inputs)[0]


def equal(op, inputs, expected, **attributes):
    found = computed(op, inputs, expected, **attributes)
    assert found.dtype == expected.dtype
    assert (found == expected).all()


def parts(fmt):
    return {"integer": fmt.integer, "fraction": fmt.fraction}


@pytest.fixture
def rng(request):
    return np.random.default_rng(len(request.node.name))


@pytest.mark.parametrize("dst", FORMATS, ids=str)
@BY_FORMAT
def test_convert(fmt, dst):
    every = np.unique(np.linspace(-fmt.limit, fmt.limit, 999).astype(fmt.dtype))
    equal(
        "FixedConvert", {"x": every}, spec.fixed_convert(every, fmt, dst), **parts(dst),
        src_integer=fmt.integer, src_fraction=fmt.fraction,
        to=helper.np_dtype_to_tensor_dtype(np.dtype(dst.dtype)),
    )  # fmt: skip


@BY_FORMAT
def test_bag_with_words_outside_of_the_table(fmt, rng):
    table = codes(fmt, rng, (9, 7))
    words = rng.integers(-3, 12, (2, 4, 5)).astype(np.int32)
    words[0, 0] = [2**31 - 1, -(2**31), 0, 8, 9]
    inputs = {"table": table, "words": words}
    equal("FixedBag", inputs, spec.fixed_bag(table, words, fmt), **parts(fmt))
    question = {"table": table, "words": words[:, 1]}
    equal("FixedBag", question, spec.fixed_bag(table, words[:, 1], fmt), **parts(fmt))


def test_valid(rng):
    words = rng.integers(0, 2, (3, 40, 2)).astype(np.int32)
    words[1] = 0
    words[2, 0] = [-5, 5]
    equal("FixedValid", {"words": words}, spec.fixed_valid(words))


@pytest.mark.parametrize("binary", [0, 1])
@BY_FORMAT
def test_dense_and_similarity(fmt, binary, rng):
    weights, key = codes(fmt, rng, (5, 60)), codes(fmt, rng, (3, 60))
    memory = codes(fmt, rng, (3, 8, 60))
    more = {**parts(fmt), "binary": binary}
    dense = spec.fixed_dense(weights, key, fmt, bool(binary))
    equal("FixedDense", {"weights": weights, "key": key}, dense, **more)
    rows = spec.fixed_dense(weights, memory, fmt, bool(binary))
    equal("FixedDense", {"weights": weights, "key": memory}, rows, **more)
    score = spec.fixed_similarity(memory, key, fmt, bool(binary))
    equal("FixedSimilarity", {"memory": memory, "key": key}, score, **more)


@pytest.mark.parametrize("alpha", [-3, 0, -15])
@BY_FORMAT
def test_hamming_similarity(fmt, alpha, rng):
    memory, key = codes(fmt, rng, (3, 50, 61)), codes(fmt, rng, (3, 61))
    expected = spec.hamming_similarity(memory, key, fmt, alpha)
    equal("HammingSimilarity", {"memory": memory, "key": key}, expected, **parts(fmt), alpha=alpha)


@BY_FORMAT
def test_softmax(fmt, rng):
    scores = codes(fmt, rng, (5, 50))
    scores[3] = fmt.limit
    used = rng.random((5, 50)) < 0.6
    used[1], used[2] = False, np.arange(50) == 7
    inputs = {"scores": scores, "used": used}
    equal("FixedSoftmax", inputs, spec.fixed_softmax(scores, used, fmt), **parts(fmt))


@BY_FORMAT
def test_softmax_at_every_distance(fmt):
    """Two slots, so that the second probability shows the table entry of each distance."""
    count = 2 * fmt.limit + 1
    scores = np.full((count, 2), fmt.limit)
    scores[:, 1] -= np.arange(count)
    scores = scores.astype(fmt.dtype)
    inputs = {"scores": scores, "used": np.ones_like(scores, bool)}
    expected = spec.fixed_softmax(scores, inputs["used"], fmt)
    equal("FixedSoftmax", inputs, expected, **parts(fmt))
    table = softmax_table(fmt)
    assert (expected[:, 1] == (table << fmt.fraction) // (table[0] + table)).all()


@BY_FORMAT
def test_read_and_add(fmt, rng):
    p, memory = codes(fmt, rng, (3, 8)), codes(fmt, rng, (3, 8, 61))
    equal("FixedRead", {"p": p, "memory": memory}, spec.fixed_read(p, memory, fmt), **parts(fmt))
    a, b = memory[:, 0], memory[:, 1]
    equal("FixedAdd", {"a": a, "b": b}, spec.fixed_add(a, b, fmt), **parts(fmt))


@BY_FORMAT
def test_output_adds_in_the_stated_order(fmt, rng):
    weights, key = rng.normal(size=(30, 60)).astype(np.float32), codes(fmt, rng, (3, 60))
    expected = spec.fixed_output(weights, key, fmt)
    equal("FixedOutput", {"weights": weights, "key": key}, expected, **parts(fmt))


def test_bodies_hold_nothing_that_is_not_needed():
    for function in functions().values():
        read = {name for node in function.node for name in node.input} | set(function.output)
        assert all(read.intersection(node.output) for node in function.node), function.name
        assert not {n.domain for n in function.node} - {""}
