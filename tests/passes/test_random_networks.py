"""Random networks: every rewriting keeps the numbers, and every kernel its definition."""

import numpy as np
import onnxruntime
import pytest

from tests.passes.random_networks import RandomNetwork
from tvm_qnn.compiler import read
from tvm_qnn.evaluate import evaluate
from tvm_qnn.passes.pipeline import to_integers
from tvm_qnn.verification import verify


def expected(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})


def equal(got, wanted):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert (a == b).all()


@pytest.mark.parametrize("first", range(0, 64, 8))
def test_rewriting_keeps_the_numbers_of_onnxruntime(first):
    for seed in range(first, first + 8):
        network = RandomNetwork(seed)
        model, x = network.model(), network.graph.input()
        equal(evaluate(to_integers(read(model).module).module, {"x": x})[""], expected(model, x))


@pytest.mark.parametrize("lowering", ["auto", "bitserial"])
@pytest.mark.parametrize("seed", [1, 5, 14, 23, 42, 51])
def test_kernels_equal_their_definitions(seed, lowering):
    network = RandomNetwork(seed)
    model, x = network.model(), network.graph.input()
    outcome = verify(model, {"x": np.concatenate([x, -x])}, lowering=lowering)
    assert outcome.first_wrong is None
    assert any(layer.exact for layer in outcome.layers)
    wanted = [
        np.concatenate(pair) for pair in zip(expected(model, x), expected(model, -x), strict=True)
    ]
    equal(list(outcome.outputs.values()), wanted)
