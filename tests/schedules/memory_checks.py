"""Run kernels of memory networks here or on emulated boards, and compare with their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory_cases import Case
from tvm_qnn._tvm import tvm
from tvm_qnn.estimate import programs
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.targets.record import Target


def check_here(found: list[Case], target: Target) -> None:
    """Compile all kernels at once and compare each with its definition."""
    functions = {f"k{i}": build_memory(case.work, target, f"k{i}") for i, case in enumerate(found)}
    compare(found, tvm.compile(tvm.IRModule(functions), target.tvm()))


def compare(found: list[Case], module: Any, device: Any = None) -> None:
    """Run kernels ``k0``, ``k1`` and so on, and compare each with its definition."""
    for i, case in enumerate(found):
        given = [tvm.runtime.tensor(a, device) for a in case.arguments]
        made = [tvm.runtime.tensor(np.full_like(e, 1), device) for e in case.expected]
        module[f"k{i}"](*given, *made)
        for result, expected in zip(made, case.expected, strict=True):
            np.testing.assert_array_equal(result.numpy(), expected, err_msg=case.name)


def check_emulated(found: list[Case], target: Target, folder: Path) -> None:
    """Link all kernels into one program, run it on an emulated board, and compare."""
    functions = {f"k{i}": build_memory(case.work, target, f"k{i}") for i, case in enumerate(found)}
    calls = [
        programs.Call(f"k{i}", (*case.arguments, np.ones_like(case.expected[0])))
        for i, case in enumerate(found)
    ]
    obj = programs.compile_object(functions, target, folder / "kernels.o")
    program = programs.link([obj], list(functions), folder / "program")
    results = programs.run(program, list(functions), calls, str(target.qemu_cpu))
    for case, result in zip(found, results, strict=True):
        np.testing.assert_array_equal(result, case.expected[0], err_msg=case.name)
