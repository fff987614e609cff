"""Random networks: every rewriting keeps the numbers, and every kernel its definition."""

import numpy as np
import onnxruntime
import pytest

from tests.networks.models import Graph
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


@pytest.mark.parametrize("lowering", ["dot", "bitserial", "reference"])
def test_every_layer_is_compared(lowering):
    # Kernels of matrix products make images of one row, which are reshaped.
    g = Graph([3, 32])
    x = g.limited("x", 4, 0.5)
    x = g.limited(g.node("Gemm", [x, g.weights([64, 32]), g.bias(64)], transB=1), 4, 1.0)
    x = g.quantize(g.node("Gemm", [x, g.weights([9, 64])], transB=1), 0.5, 7)
    model = g.model(g.node("Gemm", [x, g.weights([5, 9])], transB=1))
    outcome = verify(model, {"x": g.input()}, lowering=lowering)
    assert outcome.first_wrong is None
    compared = {layer.name: layer.elements for layer in outcome.layers}
    quantizers = [n.name for n in g.nodes if n.op_type == "QuantizeLinear"]
    products = [n.name for n in g.nodes if n.op_type == "Gemm"]
    assert set(quantizers) | {products[-1]} <= set(compared)
    assert [compared[n] for n in quantizers[2:]] == [27]
    assert compared[products[-1]] == 15
