"""AArch64 kernels equal the definitions, under qemu-user as the processor of each board."""

import numpy as np
import pytest

from tests.schedules import arm_works
from tests.schedules.arm_works import (
    BIPOLAR,
    BITSERIAL,
    DOT,
    I8,
    S8,
    TO_SIGN,
    TO_U8,
    U2,
    U2_PLANES,
    U8,
    conv,
    label,
    run_all,
    run_kernels,
)
from tvm_qnn.estimate import programs
from tvm_qnn.estimate.samples import random_inputs
from tvm_qnn.schedules import family
from tvm_qnn.schedules.tiling import decisions_of, schedule_of
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5

pytestmark = pytest.mark.emulated

WORKS = {"bitserial": BITSERIAL, "dot": DOT}
BOARDS = {t.name: t for t in (RPI3, RPI4, RPI5)}


@pytest.fixture(scope="session")
def toolchain():
    """Skip where AArch64 programs cannot be linked or run."""
    lacking = programs.missing()
    if lacking:
        pytest.skip(lacking)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", WORKS)
def test_kernels_equal_the_definition(toolchain, tmp_path, name, board):
    works = WORKS[name]
    outcomes = run_all(name, works, BOARDS[board], tmp_path)
    wrong = []
    for work, outcome in zip(works, outcomes, strict=True):
        assert outcome.output.dtype == outcome.inputs.expected.dtype
        different = np.count_nonzero(outcome.output != outcome.inputs.expected)
        if different:
            wrong.append(f"{label(work)}: {different} of {outcome.output.size} differ")
    assert wrong == []


TUNED = [
    ("bitserial", conv(64, 64, U2, BIPOLAR, U2_PLANES, x_planes=True, size=(8, 8))),
    ("bitserial", conv(20, 32, BIPOLAR, BIPOLAR, TO_SIGN, size=(4, 8))),
    ("dot", conv(17, 32, U8, S8, TO_U8, size=(8, 8))),
    ("dot", conv(32, 32, U8, S8, TO_U8, size=(8, 8), groups=32)),
]


def other_decisions(sch, largest):
    """Return traces of ``sch`` where every sampled split is as uneven, or as even, as it can be."""
    trace = sch.trace.simplified(remove_postproc=True)
    for pick in (min, max):
        changed = trace
        for instruction, decision in trace.decisions.items():
            left, factors = int(np.prod([int(f) for f in decision])), []
            for _ in list(decision)[1:]:
                factors.append(pick(f for f in range(1, largest + 1) if left % f == 0))
                left //= factors[-1]
            changed = changed.with_decision(instruction, [left, *factors], remove_postproc=True)
        yield changed


def test_tuned_kernels_equal_the_definition(toolchain, tmp_path):
    kernels, inputs = [], []
    for name, work in TUNED:
        drawn, made = random_inputs(work), family(name)
        sch = schedule_of(made.compute(work, RPI4))
        made.schedule(sch, work, RPI4)
        for trace in other_decisions(sch, largest=4):
            kernels.append(made.build(work, RPI4, drawn.weights, decisions_of(trace)))
            inputs.append(drawn)
    for outcome in run_kernels(kernels, inputs, RPI4, tmp_path):
        np.testing.assert_array_equal(outcome.output, outcome.inputs.expected)


def test_dot_product_instructions_trap_on_a_core_without_them(toolchain, tmp_path):
    work = arm_works.dense(4, 64, 16, I8, I8)
    with pytest.raises(programs.EmulationError) as trapped:
        run_all("dot", [work], RPI5, tmp_path, cpu=RPI4.qemu_cpu)
    assert trapped.value.code == -4


@pytest.mark.parametrize("board", BOARDS)
def test_epilogues_are_not_contracted(toolchain, tmp_path, board):
    work = conv(16, 16, I8, I8, TO_U8)
    weights = np.ones(work.weight_shape, np.int8)
    for epilogue in (TO_U8, arm_works.AFFINE):
        kernel = family("dot").build(work.with_epilogue(epilogue), BOARDS[board], weights)
        assembly = programs.assembly(kernel.func, BOARDS[board])
        assert "fmul" in assembly
        assert "fadd" in assembly
        assert "fmla" not in assembly
        assert "fmadd" not in assembly
