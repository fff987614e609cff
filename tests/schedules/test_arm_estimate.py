"""The cycle estimate of AArch64 kernels: how blocks are counted, and that it is repeatable."""

import numpy as np
import pytest

from tests.schedules.arm_works import I2, I8, U2, U8, dense
from tvm_qnn.estimate import blocks, programs
from tvm_qnn.estimate.kernels import estimate
from tvm_qnn.estimate.samples import random_inputs
from tvm_qnn.schedules import family
from tvm_qnn.targets.arm import AARCH64, RPI3, RPI4, RPI5

# What qemu 7.2 and 8.2 write: a block when it is translated, a line whenever it runs.
LOG = """\
----------------
IN: kernel
0x00400100:  d2800000  movz     x0, #0
0x00400104:  14000002  b        #0x40010c

----------------
IN: kernel
0x0040010c:  f1000400  subs     x0, x0, #1
0x00400110:  54ffffe1  b.ne     #0x40010c
0x00400114:  d65f03c0  ret

Trace 0: 0x7f6b40000180 [0000000000000000/0000000000400100/00000000/ff000201] kernel
Trace 0: 0x7f6b40000280 [00000000/000000000040010c/00000000/ff000201] kernel
Trace 0: 0x7f6b40000280 [00000000/000000000040010c/00000000/ff000201]
"""


def test_blocks_are_counted_by_address():
    counted = blocks.executed(LOG.splitlines(keepends=True))
    assert counted == {(0x400100, 2): 1, (0x40010C, 3): 2}


def test_block_translated_last_is_counted():
    lines = LOG.splitlines(keepends=True)
    late = [*lines[:5], lines[11], *lines[5:10], lines[12]]
    assert blocks.executed(late) == {(0x400100, 2): 1, (0x40010C, 3): 1}


@pytest.fixture
def tools():
    lacking = programs.missing()
    found = blocks.Tools.find()
    if lacking or found is None:
        pytest.skip(lacking or blocks.MISSING)
    return found


@pytest.mark.emulated
def test_estimate_repeats_and_grows_with_the_work(tools):
    def run(rows):
        work = dense(rows, 256, 32, U2, I2, x_planes=True)
        inputs = random_inputs(work)
        kernel = family("bitserial").build(work, RPI4, inputs.weights)
        found = estimate(kernel, work, RPI4, inputs)
        np.testing.assert_array_equal(found.output, inputs.expected)
        return found.cycles, found.instructions

    small, large = run(8), run(32)
    assert run(8) == small
    assert 3 * small[1] < large[1] < 5 * small[1]
    assert 3 * small[0] < large[0] < 5 * small[0]


def test_families_say_what_they_leave_to_others():
    eight_bits = dense(4, 64, 16, U8, I8)
    refused = family("bitserial").supports(eight_bits, AARCH64)
    assert refused is not None
    assert "16-bit lanes" in refused.reason
    refused = family("dot").supports(dense(4, 64, 16, U2, I2, x_planes=True), AARCH64)
    assert refused is not None
    assert "bit planes" in refused.reason


def test_costs_order_the_families_as_the_boards_do():
    def cheaper(work, target):
        costs = {name: family(name).cycles(work, target) for name in ("bitserial", "dot")}
        return min(costs, key=costs.get)

    work = dense(64, 1024, 128, U2, I2)
    assert cheaper(work, RPI3) == "bitserial"
    assert cheaper(work, RPI4) == "bitserial"
    assert cheaper(work, RPI5) == "dot"
