"""What a machine reaches at best: bytes of a copy, and operations of each kernel family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_qnn._tvm import te, tvm
from tvm_qnn.estimate.samples import random_inputs
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import FAMILIES
from tvm_qnn.spec import Codes
from tvm_qnn.targets import Target
from tvm_qnn.tuning.task import prepare

if TYPE_CHECKING:
    from tvm_qnn.compare.places import Place

_COPY = 1 << 24
"""Numbers of 4 bytes that the copy moves: more than caches hold."""
_REPEAT = 5


def measured(place: Place, target: Target) -> tuple[float, dict[str, float]]:
    """Measure a machine.

    Returns:
        bytes a second that one core reads and writes in a copy, and the operations a second of the
        families that have one: multiply-accumulates, for ``bitserial`` of single bits.
    """
    works = {
        "dot": _work(Codes(0, 255), Codes(-127, 127)),
        "bitserial": _work(Codes(0, 3), Codes(-2, 1), planes=True),
    }
    families = {family.name: family for family in FAMILIES}
    rates = {
        name: work.macs * (work.x.bits * work.w.bits if work.x_planes else 1)
        / _seconds(place, families[name], work, target)
        for name, work in works.items()
        if families[name].supports(work, target) is None
    }  # fmt: skip
    return _bandwidth(place), rates


def _work(x: Codes, w: Codes, planes: bool = False) -> ConvWork:
    """Return a convolution that keeps every kernel family busy: 256 channels, 14x14, 3x3."""
    return ConvWork(1, 14, 14, 256, 256, (3, 3), x, w, padding=(1, 1, 1, 1), x_planes=planes)


def _seconds(place: Place, family: Any, work: ConvWork, target: Target) -> float:
    inputs = random_inputs(work)
    kernel = family.build(work, target, inputs.weights)
    func = kernel.func.with_attr("global_symbol", "kernel")
    result = np.zeros_like(inputs.expected)
    arguments = [inputs.x, prepare(kernel, inputs.stream, target), *kernel.constants, result]
    return _fastest(place, tvm.IRModule({"kernel": func}), arguments)


def _bandwidth(place: Place) -> float:
    source = te.placeholder((_COPY,), "float32", "source")
    copy = te.compute((_COPY,), lambda i: source[i], "copy")
    func = te.create_prim_func([source, copy]).with_attr("global_symbol", "kernel")
    arrays = [np.zeros(_COPY, np.float32) for _ in range(2)]
    return 2 * 4 * _COPY / _fastest(place, tvm.IRModule({"kernel": func}), arrays)


def _fastest(place: Place, module: Any, arrays: list[Any]) -> float:
    tensors = [tvm.runtime.tensor(array, place.device) for array in arrays]
    timer = place.load(module).time_evaluator("kernel", place.device, number=1, repeat=_REPEAT)
    timer(*tensors)
    # What else runs on the machine only ever adds.
    return float(min(timer(*tensors).results))
