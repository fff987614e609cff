"""Kernels of memory networks on emulated boards; no tensor is read or written beyond its end."""

import numpy as np
import pytest

from benchmarks.memory_arm import fused
from benchmarks.memory_cases import Size, cases
from tests.nn.memory_networks import random_network, random_questions
from tests.schedules.memory_checks import check_emulated
from tvm_qnn import targets
from tvm_qnn.estimate import programs
from tvm_qnn.nn.qmann.export import to_onnx
from tvm_qnn.spec import FixedPoint

LACKING = programs.missing()
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(LACKING is not None, reason=LACKING or ""),
]


@pytest.mark.parametrize("board", ["aarch64", "rpi3", "rpi4", "rpi5"])
def test_operators_on_emulated_boards(board, tmp_path):
    rng = np.random.default_rng(3)
    found = [
        *cases(rng, FixedPoint(2, 5), Size(1, 51, 60)),
        *cases(rng, FixedPoint(5, 2), Size(2, 3, 7)),
        *cases(rng, FixedPoint(0, 7), Size(1, 1, 1)),
        *cases(rng, FixedPoint(1, 2), Size(1, 5, 65)),
        *cases(rng, FixedPoint(4, 9), Size(2, 9, 33)),
    ]
    check_emulated(found, targets.get(board), tmp_path)


@pytest.mark.parametrize("variant", ["dot binary mq", "hamming mq", "13 bits"])
@pytest.mark.parametrize("board", ["rpi3", "rpi4", "rpi5"])
def test_fused_networks_on_emulated_boards(board, variant, tmp_path):
    rng, target = np.random.default_rng(4), targets.get(board)
    net = random_network(variant, rng)
    arrays = dict(zip(("story", "question"), random_questions(rng, 2, 9), strict=True))
    network = fused(to_onnx(net, slots=9, sentence=6, question=4, batch=2), arrays, target)
    functions = {"kernel": network.kernel, "prepare": network.prepare}
    obj = programs.compile_object(functions, target, tmp_path / "network.o")
    program = programs.link([obj], list(functions), tmp_path / "program")
    results = programs.run(program, list(functions), network.calls, str(target.qemu_cpu))
    np.testing.assert_array_equal(results[-1], network.expected)
