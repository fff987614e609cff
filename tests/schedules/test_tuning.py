"""The design space: default decisions, traces, and other decisions give the same integers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedules.helpers import (
    HOST_TARGETS,
    compile_kernel,
    expected,
    kernel_arguments,
    random_data,
    random_params,
)
from tvm_qnn._tvm import s_tir, tvm
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import families, family
from tvm_qnn.schedules.tiling import decisions_of
from tvm_qnn.spec import Codes

pytestmark = pytest.mark.parametrize("target", HOST_TARGETS)

PLANES = Epilogue("requantize", Codes(0, 3), pack=True)
WORKS = {
    "bitserial": ConvWork(
        1, 6, 28, 64, 96, (3, 3), Codes(0, 3), Codes(-2, 1), padding=(1, 1, 1, 1), epilogue=PLANES
    ),
    "dot": ConvWork(1, 6, 28, 32, 72, (3, 3), Codes(0, 255), Codes(-9, 9), padding=(1, 1, 1, 1)),
}


class Traced:
    """A family that builds with a trace."""

    def __init__(self, inner, trace) -> None:
        self._inner, self._trace = inner, trace
        self.supports = inner.supports

    def build(self, work, target, weights):
        return self._inner.build(work, target, weights, self._trace)


def scheduled(name: str, target) -> s_tir.Schedule:
    work, chosen = WORKS[name], family(name)
    module = tvm.IRModule({"main": chosen.compute(work, target)})
    sch = s_tir.Schedule(module, seed=3, debug_mask="all")
    chosen.schedule(sch, work, target)
    return sch


def result_of(name: str, target, trace) -> np.ndarray:
    work = WORKS[name]
    x, w = random_data(work)
    module, static, kernel = compile_kernel(work, Traced(family(name), trace), target, w)
    args = kernel_arguments(work, x, static, random_params(work))
    module[kernel](*args)
    return args[-1].numpy()


@pytest.mark.parametrize("name", WORKS)
def test_a_trace_builds_the_same_kernel(target, name: str) -> None:
    sch = scheduled(name, target)
    w = random_data(WORKS[name])[1]
    default = family(name).build(WORKS[name], target, w)
    traced = family(name).build(WORKS[name], target, w, decisions_of(sch.trace))
    tvm.ir.assert_structural_equal(default.func, traced.func)


@pytest.mark.parametrize("name", WORKS)
def test_other_decisions_give_the_same_integers(target, name: str) -> None:
    work = WORKS[name]
    wanted = expected(work, *random_data(work), random_params(work))
    trace = scheduled(name, target).trace
    assert len(trace.decisions) >= 2
    seen = set()
    for seed in range(4):
        sch = s_tir.Schedule(
            tvm.IRModule({"main": family(name).compute(work, target)}), seed=seed + 1
        )
        s_tir.schedule.Trace(trace.insts, {}).apply_to_schedule(sch, remove_postproc=False)
        seen.add(str([list(map(int, d)) for d in sch.trace.decisions.values()]))
        np.testing.assert_array_equal(result_of(name, target, decisions_of(sch.trace)), wanted)
    assert len(seen) > 1


def test_kernels_do_not_depend_on_weights(target) -> None:
    for chosen in families(WORKS["dot"], target):
        work = WORKS.get(chosen.name, WORKS["dot"])
        first = chosen.build(work, target, np.full(work.weight_shape, 1, np.int8))
        second = chosen.build(work, target, np.full(work.weight_shape, -2, np.int8))
        tvm.ir.assert_structural_equal(first.func, second.func)
