"""AArch64 kernels equal the definitions, under qemu-user as the processor of each board."""

import numpy as np
import pytest

from benchmarks.arm import emulate
from tests.schedules import arm_works
from tests.schedules.arm_works import BITSERIAL, DOT, I8, label, run_all
from tvm_qnn.schedules import family
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5

pytestmark = pytest.mark.emulated

WORKS = {"bitserial": BITSERIAL, "dot": DOT}
BOARDS = {t.name: t for t in (RPI3, RPI4, RPI5)}


@pytest.fixture(scope="session")
def toolchain():
    """Skip where AArch64 programs cannot be linked or run."""
    lacking = emulate.missing()
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


def test_dot_product_instructions_trap_on_a_core_without_them(toolchain, tmp_path):
    work = arm_works.dense(4, 64, 16, I8, I8)
    with pytest.raises(emulate.EmulationError) as trapped:
        run_all("dot", [work], RPI5, tmp_path, cpu=RPI4.qemu_cpu)
    assert trapped.value.code == -4


@pytest.mark.parametrize("board", BOARDS)
def test_epilogues_are_not_contracted(toolchain, tmp_path, board):
    work = arm_works.conv(16, 16, I8, I8, arm_works.TO_U8)
    weights = np.ones(work.weight_shape, np.int8)
    for epilogue in (arm_works.TO_U8, arm_works.AFFINE):
        kernel = family("dot").build(work.with_epilogue(epilogue), BOARDS[board], weights)
        assembly = emulate.assembly(kernel.func, BOARDS[board])
        assert "fmul" in assembly
        assert "fadd" in assembly
        assert "fmla" not in assembly
        assert "fmadd" not in assembly
