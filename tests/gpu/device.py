"""The GPU of this machine, where it has one, and kernels on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

from tests.schedules.helpers import compile_kernel, kernel_arguments
from tvm_qnn import gpu_run
from tvm_qnn._tvm import tvm
from tvm_qnn.device_run import DeviceError
from tvm_qnn.gpu import toolkit
from tvm_qnn.gpu.kernels import Kernels, captured
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.targets import cuda
from tvm_qnn.targets.record import Target


@cache
def absent() -> str | None:
    """Why no kernel runs on a GPU here; None where they do."""
    try:
        gpu_run.capability()
    except DeviceError as error:
        return str(error)
    return None


def this_target() -> Target:
    """The target of the GPU."""
    return cuda.for_capability(*gpu_run.capability())


needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(absent() is not None, reason=absent() or ""),
    # One process at a time.
    pytest.mark.xdist_group("gpu"),
]


@contextmanager
def on_gpu(target: Target) -> Iterator[tuple[Any, Any]]:
    """Build kernels for the GPU; yields the ``tvm.target.Target`` and the device for tensors."""
    assert target.gpu is not None
    gpu = target.gpu

    def make(kernels: Kernels) -> Any:
        code = toolkit.compile_kernels(kernels.source, gpu)
        return gpu_run.kernel_module(code, toolkit.form(gpu), kernels.functions)

    device = target.tvm()
    with captured(make), device:
        yield device, tvm.cuda(0)


def run_on_gpu(work: ConvWork, family: Any, target: Target, x: Any, w: Any, params: Any) -> Any:
    """Compile a kernel, prepare the weights and run it on the GPU."""
    with on_gpu(target) as (device, place):
        module, static, name = compile_kernel(work, family, target, w, device, place)
        args = kernel_arguments(work, x, static, params, place)
        module[name](*args)
    return args[-1].numpy()
