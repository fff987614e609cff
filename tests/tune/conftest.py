"""A small network to tune, and the command line as a process of its own."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.networks.models import Graph
from tests.tune.servers import HOST, boards_of, free_port, wait_for

TOOL = Path(sys.executable).parent / "tvm-qnn"


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
def start():
    """Start ``tvm-qnn`` with arguments in a session of its own; all are ended after the test."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [TOOL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def tracker(start):
    """Port of a tracker without boards."""
    port = free_port()
    start("device", "tracker", "--host", HOST, "--port", port)
    wait_for(lambda: boards_of(port, "") == 0)
    return port
