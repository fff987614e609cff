"""Programs in steps compute what the whole computes, here and on an emulated board."""

import numpy as np
import pytest

from tvm_qnn.compare import emulate, operators
from tvm_qnn.compare.models import read_model
from tvm_qnn.compare.places import Here
from tvm_qnn.compare.steps import steps_of
from tvm_qnn.compiler import prepared
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.targets import get
from tvm_qnn.targets.arm import RPI4, RPI5


def steps(network, target):
    model = read_model(network, None, None)
    module, _ = prepared(model.imported, target)
    return model, steps_of(to_kernels(module, target).module, target, model.ordered)


def test_steps_have_the_names_of_their_operators(network):
    _, found = steps(network, get("host"))
    names = [name for step in found.main for name in step.names]
    assert any(name.startswith("conv") for name in names)
    assert len(names) == len(set(names))
    assert [step.moves for step in found.prepare] == [False] * 3


def test_an_emulated_program_gives_the_defined_results_and_the_same_cycles_each_time(network):
    for target in (RPI4, RPI5):
        if reason := emulate.missing(target):
            pytest.skip(reason)
        model, found = steps(network, target)
        first, again = (emulate.emulate(found, target) for _ in range(2))
        assert first.cycles == again.cycles
        assert [c is None for c in first.cycles] == [step.moves for step in found.main]
        (scores,), (expected,) = first.results, model.expected
        assert np.abs(scores - expected).max() < 1e-6


def test_every_kernel_can_be_timed_alone(network):
    _, found = steps(network, get("host"))
    runners = operators.runners_of(found, Here(get("host"), 1))
    assert len(runners) == sum(not step.moves for step in found.main)
    assert all(run(2) > 0 for run in runners)


def test_memory_is_planned_by_the_compiler(network):
    _, found = steps(network, get("host"))
    weights = sum(step.arguments[-1].nbytes for step in found.prepare)
    results = max(step.arguments[-1].nbytes for step in found.main)
    whole = sum(step.moved_bytes for step in (*found.prepare, *found.main))
    assert weights + results < found.planned_bytes < whole
