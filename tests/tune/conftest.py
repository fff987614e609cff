"""A small network to tune, and trackers."""

import onnx
import pytest

from tests.networks.models import Graph
from tests.tune.servers import HOST, boards_of, free_port, wait_for


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Two equal convolutions of 2 bits, and one of another shape."""
    g = Graph([1, 16, 8, 8])
    x = g.limited(g.quantize("x", 0.125, 128), 4, 0.5)
    for channels in (16, 16, 32):
        w = g.weights([channels, 16, 3, 3], lo=-2, hi=1)
        x = g.limited(g.conv(x, w, pads=[1] * 4), 4, 2.0)
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    onnx.save(g.model(x), path)
    return path


@pytest.fixture
def tracker(start):
    """Port of a tracker without boards."""
    port = free_port()
    start("device", "tracker", "--host", HOST, "--port", port)
    wait_for(lambda: boards_of(port, "") == 0)
    return port
