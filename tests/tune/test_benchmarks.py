import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="runs from the repository")

from benchmarks.arm.limits import products
from benchmarks.arm.works import works
from benchmarks.cases import RESNET18, choose, work_of
from benchmarks.peak import LANES, PEAKS, STEPS, loop
from benchmarks.tune_kernels import layers
from tvm_qnn import targets
from tvm_qnn._tvm import tvm
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import UNTUNED, Database
from tvm_qnn.schedules.records import Record, digest, target_key, work_key
from tvm_qnn.targets.instructions import missing_flags
from tvm_qnn.targets.x86 import AVX512_VNNI

CASE = RESNET18[2]


def record(method: str, cost: float, trace: object = None) -> Record:
    work = work_of(CASE, "w2a2", method)
    kernel = digest(family(method), work, AVX512_VNNI)
    return Record(
        target_key(AVX512_VNNI), work_key(work), method, kernel, cost, 1.0, "seconds", 1, "", trace
    )


def test_fastest_family_of_the_database_is_taken():
    tuned = Database([record("bitserial", 0.5), record("dot", 0.4, [["x"], []])])
    chosen = choose(CASE, "w2a2", AVX512_VNNI, tuned)
    assert (chosen.name, chosen.schedule) == ("qconv2d_w2a2_dot", "tuned")
    assert not chosen.work.x_planes
    only = choose(CASE, "w2a2", AVX512_VNNI, Database([record("bitserial", 0.5)]))
    assert (only.family, only.schedule, only.work.x_planes) == ("bitserial", "default", True)


def test_kernels_without_a_record_are_untuned():
    chosen = choose(CASE, "w2a2", AVX512_VNNI, UNTUNED)
    assert (chosen.family, chosen.schedule, chosen.record) == ("bitserial", "untuned", None)


@pytest.mark.parametrize("name", ["rpi3", "rpi4", "rpi5"])
def test_every_estimated_kernel_is_tuned_once(name):
    tasks = [task for layer in layers(targets.get(name)).values() for task in layer]
    assert len(set(tasks)) == len(tasks)
    assert {(f, work) for f, work in works()} <= {(t.family.name, t.work) for t in tasks}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("cnt\tv3.16b, v3.16b", 128),
        ("cnt\tv3.8b, v3.8b", 64),
        ("udot\tv2.4s, v1.16b, v0.4b[1]", 16),
        ("smull\tv2.8h, v1.8b, v0.8b", 8),
        ("smlal2\tv2.8h, v1.16b, v0.16b", 8),
        ("umlal\tv2.4s, v1.4h, v0.4h", 4),
        ("sadalp\tv2.4s, v1.8h", 0),
        ("and\tv3.16b, v1.16b, v2.16b", 0),
        ("mul\tx1, x2, x3", 0),
    ],
)
def test_multiply_accumulates_of_an_instruction(line, count):
    assert products(line) == count


@pytest.mark.skipif(bool(missing_flags(AVX512_VNNI)), reason="needs AVX-512 VNNI and VPOPCNTDQ")
@pytest.mark.parametrize("variant", list(PEAKS))
def test_peak_takes_all_of_its_steps(variant):
    x = np.random.default_rng(0).integers(-(2**31), 2**31, LANES).astype(np.int32)
    sums = x[None] + np.arange(3, dtype=np.int32)[:, None]
    added = (x.view(np.uint8).astype(np.int32) * x.view(np.int8)).reshape(LANES, 4).sum(1)
    for _ in range(STEPS):
        if variant == "w1a1":
            bits = np.unpackbits((sums & x).view(np.uint8), axis=1)
            sums += bits.reshape(*sums.shape, 32).sum(-1, dtype=np.int32)
        else:
            sums += added.astype(np.int32)
    y = tvm.runtime.tensor(np.zeros(LANES, np.int32))
    module = tvm.compile(tvm.IRModule({"peak": loop(variant, 3)}), AVX512_VNNI.tvm())
    module["peak"](tvm.runtime.tensor(x), y)
    assert (y.numpy() == sums.sum(0, dtype=np.int32)).all()
