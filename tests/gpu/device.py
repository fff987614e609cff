"""The GPU of this machine, where it has one, and kernels on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.schedules.helpers import compile_kernel, kernel_arguments
from tvm_qnn._tvm import tvm
from tvm_qnn.gpu.here import on_gpu
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.targets import cuda
from tvm_qnn.targets.record import Target

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.here() is None, reason="the driver finds no GPU"),
    # One process at a time.
    pytest.mark.xdist_group("gpu"),
]


def this_target() -> Target:
    """The target of the GPU."""
    found = cuda.here()
    assert found is not None
    return found


def run_on_gpu(work: ConvWork, family: Any, target: Target, x: Any, w: Any, params: Any) -> Any:
    """Compile a kernel, prepare the weights and run it on the GPU."""
    place = tvm.cuda(0)
    with on_gpu(target) as device:
        module, static, name = compile_kernel(work, family, target, w, device, place)
        args = kernel_arguments(work, x, static, params, place)
        module[name](*args)
    return args[-1].numpy()
