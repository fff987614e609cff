"""Tuning for GPUs: whatever MetaSchedule draws is exact, and so is what a database says of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.gpu.emulation import run_emulated
from tests.gpu.test_kernels import CASES, SM80
from tests.gpu.test_schedules import run_sequential
from tests.schedules.helpers import expected, random_data, random_params
from tvm_qnn import gpu_run
from tvm_qnn._tvm import tvm
from tvm_qnn.errors import TargetError
from tvm_qnn.gpu import emulator, toolkit
from tvm_qnn.gpu.kernels import Kernels
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import family, tiling
from tvm_qnn.schedules.records import work_key
from tvm_qnn.spec import Codes
from tvm_qnn.targets import cuda
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning import tune, workers
from tvm_qnn.tuning.search import Search, cost_model
from tvm_qnn.tuning.task import ENTRY, Task

S2, U2 = Codes(-2, 1), Codes(0, 3)
WORKS = {
    "mma": CASES["many rows"][0],
    "bmma": ConvWork(
        1, 5, 6, 64, 40, (3, 3), U2, S2, padding=(1, 1, 1, 1), x_planes=True,
        epilogue=Epilogue("requantize", U2),
    ),
    "unpack": CASES["zeros of weights"][0],
    "gemv": CASES["one row"][0],
    "dot": CASES["depthwise"][0],
}  # fmt: skip


class Traced:
    """A family whose kernels are built by a trace, without instructions of some names."""

    def __init__(self, name, trace, without=()):
        self._family, self.name = family(name), name
        kept = [i for i in trace[0] if i[0] not in without]
        dropped = [n for n, i in enumerate(trace[0]) if i[0] in without]
        moved = [[n - sum(d < n for d in dropped), value] for n, value in trace[1]]
        self._trace = [kept, moved]

    def supports(self, work, target):
        return self._family.supports(work, target)

    def build(self, work, target, weights, trace=None):
        return self._family.build(work, target, weights, self._trace)


def check(work, traced, run):
    x, w = random_data(work)
    params = random_params(work)
    np.testing.assert_array_equal(
        run(work, traced, SM80, x, w, params), expected(work, x, w, params)
    )


@pytest.mark.parametrize("name", WORKS)
def test_what_the_search_draws_is_exact(name):
    """The way of a candidate: drawn, kept as a trace in a file, built again, run."""
    work = WORKS[name]
    search = Search(Task(work, family(name), SM80), cost_model(), 16, 3, seed=0)
    candidates = search.ask()
    assert candidates
    for candidate in candidates:
        trace = json.loads(json.dumps(candidate.trace))
        check(work, Traced(name, trace), run_emulated)
        check(work, Traced(name, trace, without=["Tensorize"]), run_sequential)
    search.tell(candidates, [1.0] * len(candidates))


REBUILD = """
import json, sys
import numpy as np
from tvm_qnn import targets
from tvm_qnn.schedules import family, tiling
from tvm_qnn.schedules.records import work_key
from tvm_qnn.schedules.records import parse_work
name, work, trace = json.load(open(sys.argv[1]))
work = parse_work(work)
family(name).build(work, targets.get("cuda-sm80"), np.zeros(work.weight_shape, work.w.dtype), trace)
"""


@pytest.mark.parametrize("name", ["mma", "bmma", "unpack"])
def test_a_new_process_knows_the_instructions_of_a_trace(name, tmp_path):
    work = WORKS[name]
    sch = tiling.schedule_of(family(name).compute(work, SM80))
    family(name).schedule(sch, work, SM80)
    kept = tmp_path / "trace.json"
    kept.write_text(json.dumps([name, work_key(work), tiling.decisions_of(sch.trace)]))
    subprocess.run([sys.executable, "-c", REBUILD, str(kept)], check=True, timeout=120)


def test_the_way_of_a_candidate_on_a_gpu_machine(tmp_path, monkeypatch):
    """Build, load, check and time, with emulated kernels in the memory of the CPU."""

    def emulated(code, form, functions):
        return emulator.compile_kernels(Kernels(code.decode(), functions), SM80.gpu.shared_bytes)

    monkeypatch.setattr(toolkit, "compiler", lambda: None)
    monkeypatch.setattr(gpu_run, "load_cuda", lambda: None)
    monkeypatch.setattr(gpu_run, "compiled", lambda code, form, arch: (code, form))
    monkeypatch.setattr(gpu_run, "kernel_module", emulated)
    monkeypatch.setattr(tvm, "cuda", lambda _: tvm.cpu())
    device = emulator.on_cpu(SM80)
    monkeypatch.setattr(Target, "tvm", lambda self: device)
    task = Task(WORKS["gemv"], family("gemv"), SM80)
    workers.save_arguments(tmp_path / "a.npz", task.arguments(), task.inputs.expected)
    library = str(tmp_path / "candidate.so")
    workers.build(task.module(), SM80, linker(SM80), library, ENTRY)
    assert 0 < workers.measure_on_gpu(library, str(tmp_path / "a.npz"), ENTRY) < 10
    wrong = (*task.arguments(), task.inputs.expected + 1)
    workers.save_arguments(tmp_path / "b.npz", wrong[:-1], wrong[-1])
    with pytest.raises(workers.WrongResultError):
        workers.measure_on_gpu(library, str(tmp_path / "b.npz"), ENTRY)


@pytest.mark.skipif(cuda.here() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["host", "estimate", "rpc://localhost:9190/gpu"])
def test_tuning_without_a_gpu_says_where_to_tune(device, tmp_path):
    with pytest.raises(TargetError, match=r"on the machine (with|that has)") as caught:
        tune("zoo:maqd-fashion", "cuda-sm80", tmp_path / "tuned", device=device)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.skipif(cuda.here() is not None, reason="this machine has a GPU")
def test_the_doctor_misses_the_gpu(cli):
    code, out, _ = cli("doctor", "-t", "cuda-sm80")
    assert code == 1
    assert "GPU: the driver finds none" in out
