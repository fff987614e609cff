"""On a machine with a GPU: every kernel and every zoo network equals its definition.

    pytest -m gpu -n 0

The emulator runs the same kernels on all machines; what it cannot tell is here.
"""

import numpy as np
import pytest

import tvm_qnn
from tests.gpu.device import needs_gpu, run_on_gpu, this_target
from tests.gpu.test_kernels import CASES
from tests.gpu.test_memory import FORMATS, SIZES, cuda_cases
from tests.schedules.helpers import check, families_for
from tests.schedules.memory_checks import compare
from tvm_qnn import zoo
from tvm_qnn._tvm import tvm
from tvm_qnn.gpu.here import on_gpu
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.spec import Codes

pytestmark = needs_gpu

U8, S8, U2, S2 = Codes(0, 255), Codes(-128, 127), Codes(0, 3), Codes(-2, 1)
LARGE = {
    "image": ConvWork(
        4, 56, 56, 64, 64, (3, 3), U2, S2, padding=(1, 1, 1, 1),
        epilogue=Epilogue("requantize", U2, pack=True),
    ),
    "strides": ConvWork(
        2, 57, 55, 96, 130, (3, 3), U8, S8, (2, 2), (1, 1, 1, 1), x_zero=3,
        epilogue=Epilogue("requantize", U8),
    ),
    "rows": ConvWork(1, 1, 1000, 512, 1000, (1, 1), S8, S8),
    "row": ConvWork(1, 1, 1, 4096, 4096, (1, 1), U8, S2),
}  # fmt: skip


@pytest.mark.parametrize("work", [*(work for work, _ in CASES.values()), *LARGE.values()])
def test_kernels(work):
    target = this_target()
    for family in families_for(work, target):
        check(work, family, target, run=run_on_gpu)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_memory_operators(size, fmt):
    found, target = cuda_cases(size.slots, fmt, size), this_target()
    functions = {f"k{i}": build_memory(c.work, target, f"k{i}") for i, c in enumerate(found)}
    with on_gpu(target) as device:
        compare(found, tvm.compile(tvm.IRModule(functions), device), tvm.cuda(0))


@pytest.mark.parametrize("entry", zoo.entries(), ids=lambda entry: entry.name)
def test_zoo_networks(entry, tmp_path):
    name = f"zoo:{entry.name}"
    samples = zoo.samples(name)
    here = tvm_qnn.compile(name)
    there = tvm_qnn.compile(name, this_target(), tmp_path / "artifact")
    inputs = {i.name: samples[i.name] for i in here.manifest.inputs}
    for i in range(min(8, len(next(iter(inputs.values()))))):
        one = {key: values[i : i + 1] for key, values in inputs.items()}
        expected = here.run(one)
        for key, found in there.run(one).items():
            np.testing.assert_array_equal(found, expected[key])
