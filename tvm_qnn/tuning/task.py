"""What is tuned: one task for each piece of work of a model and each family that can do it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn import targets
from tvm_qnn._tvm import tvm
from tvm_qnn.estimate.samples import Inputs, random_codebook, random_inputs
from tvm_qnn.gpu.here import on_gpu
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules.family import Family, Kernel
from tvm_qnn.schedules.records import Work, digest, target_key, work_key
from tvm_qnn.targets.record import Target

ENTRY = "main"
"""Name of the function of a candidate."""


@dataclass(frozen=True)
class Task:
    """A kernel to tune.

    Attributes:
        work: what it computes.
        family: how.
        target: for which device.
        operators: names of the operators of the model that need this kernel.
    """

    work: Work
    family: Family[Any]
    target: Target
    operators: tuple[str, ...] = field(compare=False, default=())

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.work.name(self.family.name)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its records are found by: target, work, family and digest of the kernel."""
        return (
            target_key(self.target),
            work_key(self.work),
            self.family.name,
            digest(self.family, self.work, self.target),
        )

    @cached_property
    def inputs(self) -> Inputs:
        """Random arguments, and the result that the definition gives for them."""
        if isinstance(self.work, CodebookWork):
            return random_codebook(self.work)
        return random_inputs(self.work)

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel with its default schedule."""
        return self.family.build(self.work, self.target, self.inputs.weights)

    def arguments(self) -> tuple[NDArray[Any], ...]:
        """Return the arguments of a candidate, the zeroed result last."""
        packed = prepare(self.kernel, self.inputs.stream, self.target)
        result = np.zeros(self.inputs.expected.shape, self.inputs.expected.dtype)
        return (
            self.inputs.x,
            packed,
            *self.kernel.constants,
            *self.inputs.parameters,
            result,
        )

    def module(self, trace: Any = None) -> Any:
        """Return the module of one candidate: the kernel by a trace, or by default."""
        func = self.kernel.func
        if trace is not None:
            func = self.family.build(self.work, self.target, self.inputs.weights, trace).func
        return tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})


def prepare(kernel: Kernel, stream: NDArray[np.uint8], target: Target) -> NDArray[Any]:
    """Unpack weights on this machine, or on its GPU, whatever the kernel is for."""
    functions = tvm.IRModule({"prepare": kernel.prepare.with_attr("global_symbol", "prepare")})
    on_cpu = nullcontext(targets.get("host").tvm())
    with on_cpu if target.gpu is None else on_gpu(target) as built_for:
        module = tvm.compile(functions, built_for)
        device = tvm.cpu() if target.gpu is None else tvm.cuda(0)
        packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype), device)
        module["prepare"](tvm.runtime.tensor(stream, device), packed)
    return np.asarray(packed.numpy())
