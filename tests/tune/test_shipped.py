"""The records that come with the package: none is out of date, and every schedule is exact."""

import pytest

import tvm_qnn
from tvm_qnn import targets
from tvm_qnn._tvm import tvm
from tvm_qnn.estimate import kernels, programs
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import shipped
from tvm_qnn.schedules.records import parse_work, target_key
from tvm_qnn.tuning.stale import stale
from tvm_qnn.tuning.task import ENTRY, Task

RECORDS = list(shipped())
TARGETS = {target_key(targets.get(name)): name for name in targets.names() if name != "host"}


@pytest.mark.parametrize("key", sorted({record.target for record in RECORDS}))
def test_no_record_is_out_of_date(key):
    old = {record.work: why for record in RECORDS if record.target == key if (why := stale(record))}
    assert old == {}, "kernels have changed: tvm-qnn database prune schedules/tuned, then tune"


def test_targets_have_records():
    found = {TARGETS[record.target] for record in RECORDS}
    assert found >= {"x86-avx512-vnni", "rpi3", "rpi4", "rpi5"}
    units = {TARGETS[record.target]: record.unit for record in RECORDS}
    assert units["x86-avx512-vnni"] == "seconds"
    assert units["rpi4"] == "cycles"


@pytest.mark.parametrize("name", ["x86-avx512-vnni", "rpi3", "rpi4", "rpi5"])
def test_networks_of_the_zoo_are_tuned(name):
    for model in ("zoo:maqd-fashion", "zoo:maqd-cifar10", "zoo:mqnn-fashion"):
        rows = [r for r in tvm_qnn.inspect(model, name).rows if r.operator.endswith("conv2d")]
        assert [r.name for r in rows if r.gain < 1] == [], model


def _result(record):
    """Run a tuned kernel; its result and what the definition says."""
    work = parse_work(record.work)
    chosen = family(record.family, codebook=isinstance(work, CodebookWork))
    task = Task(work, chosen, targets.get(TARGETS[record.target]))
    module, arguments = task.module(record.trace), task.arguments()
    if task.target.arch == "aarch64":
        call = programs.Call("kernel", arguments)
        found = kernels.estimate_call(module[ENTRY], [call], task.target, {}).output
    else:
        tensors = [tvm.runtime.tensor(array) for array in arguments]
        tvm.compile(module, task.target.tvm())[ENTRY](*tensors)
        found = tensors[-1].numpy()
    return found, task.inputs.expected


def _ids(record):
    return f"{TARGETS[record.target]}-{record.family}-{record.kernel}"


SCHEDULED = [record for record in RECORDS if record.trace is not None]
HERE = [record for record in SCHEDULED if record.unit == "seconds"]
# All of them were checked when they were found; these show that they still fit the kernels.
BOARDS = [record for record in SCHEDULED if record.unit == "cycles"][::10]


@pytest.mark.parametrize("record", HERE, ids=_ids)
def test_measured_schedules_are_exact(record):
    reached = targets.reachable(targets.get(TARGETS[record.target]))
    if not reached.startswith("native"):
        pytest.skip(reached)
    found, expected = _result(record)
    assert (found == expected).all()


@pytest.mark.parametrize("record", BOARDS, ids=_ids)
def test_estimated_schedules_are_exact(record):
    if lacking := kernels.missing():
        pytest.skip(lacking)
    found, expected = _result(record)
    assert (found == expected).all()
