"""A small network and one comparison of it, which several tests look at."""

import dataclasses

import numpy as np
import onnx
import pytest

from tests.networks.models import Graph
from tvm_qnn import targets
from tvm_qnn.compare import compare
from tvm_qnn.schedules.reference import Reference


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Two convolutions, one of them behind a pool, a matrix product, and a sigmoid in float."""
    g = Graph([1, 16, 8, 8])
    x = g.limited(g.quantize("x", 0.125, 128), 4, 0.5)
    x = g.limited(g.conv(x, g.weights([32, 16, 3, 3], -2, 1), pads=[1] * 4), 4, 2.0)
    x = g.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = g.limited(g.conv(x, g.weights([32, 32, 3, 3]), g.bias(32), pads=[1] * 4), 4, 2.0)
    x = g.quantize(g.node("GlobalAveragePool", [x]), 0.25)
    x = g.node("Gemm", [g.node("Flatten", [x]), g.weights([10, 32])], transB=1)
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    onnx.save(g.model(g.node("Sigmoid", [x])), path)
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Eight images."""
    path = tmp_path_factory.mktemp("inputs") / "in.npz"
    rng = np.random.default_rng(4)
    np.savez(path, x=rng.standard_normal((8, 16, 8, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="session")
def report(network):
    """The network in integers and in float, here and on a board, beside ONNX Runtime."""
    return compare(
        [network], ("host", "rpi4"), lowerings=("auto", "float"), baseline="onnxruntime", limit=0.2
    )


@pytest.fixture
def variants(report):
    """The variants by target and lowering."""
    return {(v.target, v.lowering): v for v in report.runs[0].variants}


@pytest.fixture
def crooked(monkeypatch):
    """This machine under a name for which the kernels of ``reference`` pad with a wrong zero."""
    build = Reference.build

    def wrong(self, work, target, weights, trace=None):
        if target.name == "crooked" and work.kernel == (3, 3) and work.height == 4:
            work = dataclasses.replace(work, x_zero=work.x_zero + 1)
        return build(self, work, target, weights, trace)

    monkeypatch.setattr(Reference, "build", wrong)
    return dataclasses.replace(targets.host(), name="crooked")
