import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from tests import small_models
from tests.small_models import DENSE_FIELDS, TWO_FIELDS, dense_expected
from tvm_qnn import targets
from tvm_qnn.artifact import write_artifact
from tvm_qnn.errors import ArtifactError, InputError
from tvm_qnn.runtime import load


def sample(seed=0):
    return np.random.default_rng(seed).integers(-128, 128, (3, 64), dtype=np.int8)


@pytest.fixture
def program(artifact):
    return load(artifact)


def run_python(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(args[0]).parent,  # away from the repository, where half of the package lies
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_results_are_exact_and_independent(program):
    first = program.run({"x": sample(0)})
    second = program.run({"x": sample(1)})
    assert list(first) == ["y/0:out"]
    assert first["y/0:out"].dtype == np.int32
    assert (first["y/0:out"] == dense_expected(sample(0))).all()
    assert (second["y/0:out"] == dense_expected(sample(1))).all()
    first["y/0:out"][...] = 7
    assert (program.run({"x": sample(0)})["y/0:out"] == dense_expected(sample(0))).all()


def test_inputs_may_lie_anywhere_in_memory(program):
    expected = dense_expected(sample())
    odd = np.zeros(3 * 64 + 1, np.int8)[1:].reshape(3, 64)
    odd[...] = sample()
    wide = np.zeros((3, 128), np.int8)
    wide[:, ::2] = sample()
    for x in (odd, wide[:, ::2], np.asfortranarray(sample())):
        assert (program.run({"x": x})["y/0:out"] == expected).all()


def test_several_inputs_and_outputs_and_nothing_to_prepare(tmp_path):
    host = targets.host()
    write_artifact(small_models.two_outputs(host), TWO_FIELDS, tmp_path / "two", host)
    program = load(tmp_path / "two")
    x = np.array([np.nan, np.inf, -0.0, 1.5, -3], np.float32)
    b = np.array([0, 1, 3, 7, 15, 128, 255], np.uint8)
    out = program.run({"b": b, "x": x})
    assert list(out) == ["file", "counts"]
    assert out["file"].tobytes() == (x + x).tobytes()
    assert out["counts"].tolist() == [0, 1, 2, 3, 4, 1, 8]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, ["'x'", "missing"]),
        ({"x": sample(), "y": sample()}, ["'y'", "['x']"]),
        ({"X": sample()}, ["'X'", "['x']"]),
        ({"x": sample()[:2]}, ["'x'", "[2, 64]", "[3, 64]"]),
        ({"x": sample()[None]}, ["[1, 3, 64]"]),
        ({"x": sample().astype(np.uint8)}, ["uint8", "int8"]),
        ({"x": sample().astype(np.float32)}, ["float32"]),
        ({"x": sample().tolist()}, ["list", "numpy"]),
        ({"x": None}, ["NoneType"]),
    ],
)
def test_wrong_inputs_are_one_line(program, arrays, words):
    for call in (program.run, program.benchmark):
        with pytest.raises(InputError) as caught:
            call(arrays)
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words)


def test_a_foreign_byte_order_is_another_dtype(tmp_path):
    host = targets.host()
    write_artifact(small_models.two_outputs(host), TWO_FIELDS, tmp_path / "two", host)
    swapped = np.zeros(5, np.dtype(np.float32).newbyteorder())
    with pytest.raises(InputError, match="float32"):
        load(tmp_path / "two").run({"x": swapped, "b": np.zeros(7, np.uint8)})


def test_benchmark_counts_its_runs_and_orders_its_percentiles(program):
    latency = program.benchmark({"x": sample()}, repeat=7, warmup=0)
    assert latency.runs == 7
    assert 0 < latency.p10 <= latency.median <= latency.p90
    for repeat, warmup in ((0, 0), (1, -1)):
        with pytest.raises(InputError, match="at least"):
            program.benchmark({"x": sample()}, repeat=repeat, warmup=warmup)


def test_a_model_compiled_again_into_its_folder_runs_its_new_code(artifact, program):
    host = targets.host()
    write_artifact(small_models.dense(host, offset=5), DENSE_FIELDS, artifact, host)
    new = load(artifact)
    assert (new.run({"x": sample()})["y/0:out"] == dense_expected(sample(), 5)).all()
    assert (program.run({"x": sample()})["y/0:out"] == dense_expected(sample())).all()


def test_a_loaded_program_outlives_its_folder(artifact, program):
    shutil.rmtree(artifact)
    assert (program.run({"x": sample()})["y/0:out"] == dense_expected(sample())).all()


def test_threads_leave_the_caller_free_to_move_between_cores(artifact):
    before = os.sched_getaffinity(0)
    for threads in {1, len(before)}:
        program = load(artifact, threads=threads)
        assert (program.run({"x": sample()})["y/0:out"] == dense_expected(sample())).all()
        assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_impossible_thread_counts_are_refused(artifact, threads):
    with pytest.raises(InputError, match="threads"):
        load(artifact, threads=threads)


def test_calls_from_several_threads_take_turns(program):
    failures = []

    def work(seed):
        x = sample(seed)
        for _ in range(50):
            if (program.run({"x": x})["y/0:out"] != dense_expected(x)).any():
                failures.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def test_code_for_another_architecture_is_refused_before_it_is_loaded(tmp_path):
    other = next(t for t in targets.all_targets() if t.arch != targets.host().arch)
    write_artifact(small_models.dense(other), DENSE_FIELDS, tmp_path / "other", other)
    with pytest.raises(ArtifactError, match=other.arch) as caught:
        load(tmp_path / "other")
    assert "\n" not in str(caught.value)


def test_missing_instructions_and_versions_and_counts_are_refused(artifact):
    manifest = json.loads((artifact / "manifest.json").read_text())
    for change, word in (
        ({"target": {**manifest["target"], "flags": ["avx1024"]}}, "avx1024"),
        ({"versions": {**manifest["versions"], "apache-tvm": "0.28.0"}}, "0.28.0"),
        ({"prepared": 2}, "prepares 1 tensors"),
    ):
        (artifact / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ArtifactError, match=word):
            load(artifact)


def test_the_runtime_imports_neither_tvm_nor_its_compiler_nor_torch(artifact):
    code = """
        import sys
        import numpy as np
        from tvm_qnn.runtime import load
        load(sys.argv[1]).run({"x": np.zeros((3, 64), np.int8)})
        names = {name.partition(".")[0] for name in sys.modules}
        print(*sorted(names & {"tvm", "torch", "onnx"}), end=" ")
        maps = open("/proc/self/maps").read()
        print("libtvm_runtime.so" in maps, "libtvm_compiler" in maps)
    """
    assert run_python(code, artifact) == ["True", "False"]


@pytest.mark.parametrize("order", [["tvm", "load"], ["load", "tvm"], ["load", "torch", "tvm"]])
def test_the_compiler_may_be_imported_before_and_after(artifact, order):
    code = """
        import sys
        import numpy as np
        for step in sys.argv[2:]:
            if step == "load":
                from tvm_qnn.runtime import load
                program = load(sys.argv[1])
            else:
                __import__(step)
        import tvm
        out = program.run({"x": np.ones((3, 64), np.int8)})["y/0:out"]
        print(out.sum(), tvm.runtime.tensor(np.ones(3)).numpy().sum())
        lines = open("/proc/self/maps").read().splitlines()
        print(len({line.split()[-1] for line in lines if "libtvm_runtime.so" in line}))
    """
    total = dense_expected(np.ones((3, 64), np.int8)).sum()
    assert run_python(code, artifact, *order) == [str(total), "3.0", "1"]
