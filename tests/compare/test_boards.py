"""Boards behind a real tracker and server of TVM, on the loopback."""

import os
import signal

import pytest

from tests.tune.servers import HOST, boards_of, free_port, wait_for
from tvm_qnn import targets
from tvm_qnn.compare import compare
from tvm_qnn.compare.places import Board
from tvm_qnn.compare.rows import HERE, REMOTE
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.x86 import AVX2

KEY = "board"


@pytest.fixture
def board(start):
    """Address of a board, and its server."""
    if not targets.reachable(AVX2).startswith("native"):
        pytest.skip("this processor has no AVX2")
    port = free_port()
    start("device", "tracker", "--host", HOST, "--port", port)
    wait_for(lambda: boards_of(port, "") == 0)
    server = start("device", "serve", "--tracker", f"{HOST}:{port}", "--key", KEY)
    wait_for(lambda: boards_of(port, KEY) == 1)
    return f"rpc://{HOST}:{port}/{KEY}", server


def test_a_board_is_measured_beside_this_machine(network, board):
    address, _ = board
    found = compare([network], ("host", AVX2), devices={AVX2.name: address}, limit=0)
    here, there = found.runs[0].variants
    assert (there.latency.kind, there.machine) == (REMOTE, "board over RPC")
    assert there.latency.rounds == here.latency.rounds
    assert {o.cost.kind for o in there.operators} == {REMOTE}
    assert there.check.kind == REMOTE
    assert there.check.largest < 1e-6
    # Two machines say nothing about each other's kernels.
    assert (here.ratio, there.ratio) == (None, None)
    machine = found.runs[0].machines["board over RPC"]
    assert machine.cpu == found.runs[0].machines["this machine"].cpu
    assert machine.rates["dot"] > 0


def test_a_board_that_is_lent_or_unknown_is_named(board):
    address, _ = board
    lent = Board(AVX2, address, 1)
    with pytest.raises(TargetError, match="all boards of that key are lent"):
        Board(AVX2, address, 1)
    del lent
    with pytest.raises(TargetError, match="no board of that key"):
        Board(AVX2, address.replace(KEY, "toaster"), 1)


def test_a_board_that_vanishes_leaves_the_others_measured(network, board):
    address, server = board
    seen = []

    def watch(what, done, total):
        if what == "measuring" and what not in seen:
            os.killpg(server.pid, signal.SIGKILL)
        seen.append(what)

    found = compare(
        [network], ("host", AVX2), devices={AVX2.name: address}, limit=0, progress=watch
    )
    here, there = found.runs[0].variants
    assert (here.latency.kind, len(here.operators) > 0) == (HERE, True)
    assert there.latency is None or there.latency.unit == "cycles"
    assert (there.machine, there.ratio, there.check) == ("", None, None)
    assert there.parts.startswith(address)
    assert f"tvm-qnn doctor -t {AVX2.name}" in there.parts
    assert set(found.runs[0].machines) == {"this machine"}


def test_a_board_that_vanishes_is_one_line(board):
    address, server = board
    lent = Board(AVX2, address, 1)
    os.killpg(server.pid, signal.SIGKILL)
    with pytest.raises(TargetError, match="tvm-qnn doctor -t x86-avx2") as caught, lent.guarded():
        lent.machine()
    assert "\n" not in str(caught.value)
