"""Kernels for a GPU, run on the CPU and compared with ``spec``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.schedules.helpers import (
    check,
    compile_kernel,
    kernel_arguments,
    random_data,
)
from tvm_qnn._tvm import tvm
from tvm_qnn.compiler import build_executable, prepared, read
from tvm_qnn.gpu import emulator
from tvm_qnn.gpu.kernels import Kernels, captured
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.targets.record import Target


def run_emulated(
    work: ConvWork, family: Any, target: Target, x: Any, w: Any, params: Any,
    edit: Callable[[str], str] = str,
) -> Any:  # fmt: skip
    """Compile a kernel, its source changed by ``edit``, prepare the weights and run it."""

    def make(kernels: Kernels) -> Any:
        changed = Kernels(edit(kernels.source), kernels.functions)
        return emulator.compile_kernels(changed, target.gpu.shared_bytes)

    device = emulator.on_cpu(target)
    with captured(make), device:
        module, static, name = compile_kernel(work, family, target, w, device)
    args = kernel_arguments(work, x, static, params)
    module[name](*args)
    return args[-1].numpy()


def check_emulated(work: ConvWork, family: Any, target: Target, seed: int = 0) -> None:
    """Assert that a kernel gives the integers (and floats) of ``spec``."""
    check(work, family, target, seed, run_emulated)


def source_of(work: ConvWork, family: Any, target: Target) -> Kernels:
    """The CUDA source of a kernel."""
    _, w = random_data(work)
    kernel = family.build(work, target, w)
    device = target.tvm()
    with captured() as kernels, device:
        tvm.compile(tvm.IRModule({kernel.name: kernel.func}), device)
    return kernels


def source_of_model(model: Any, target: Target) -> Kernels:
    """The CUDA source of a whole program."""
    lowered = to_kernels(prepared(read(model), target)[0], target)
    device = target.tvm()
    with captured() as kernels, device:
        build_executable(lowered.module, device)
    return kernels
