import os
import subprocess
import sys

import numpy as np
import pytest

from tests import small_models
from tests.small_models import DENSE_FIELDS, TWO_FIELDS, dense_expected
from tvm_qnn import targets
from tvm_qnn.artifact import read_manifest, write_artifact
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.device_library import cache_folder, runtime_library


def run_bundle(bundle, *args):
    return subprocess.run(
        [sys.executable, str(bundle / "run.py"), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle.parent,
    )


@pytest.fixture
def bundle(host_dense, tmp_path):
    return write_artifact(
        host_dense, DENSE_FIELDS, tmp_path / "bundle", targets.host(), bundle=True
    )


def test_a_bundle_for_this_machine_runs_by_itself(bundle, tmp_path):
    x = np.random.default_rng(1).integers(-128, 128, (3, 64), dtype=np.int8)
    np.savez(tmp_path / "in.npz", x=x)
    done = run_bundle(bundle, "in.npz", "out.npz", "--repeat", 3)
    assert done.returncode == 0, done.stderr
    assert "latency" in done.stdout
    assert "3 runs" in done.stdout
    with np.load(tmp_path / "out.npz") as out:
        assert (out["y/0:out"] == dense_expected(x)).all()


def test_a_bundle_can_be_replaced_by_an_artifact(bundle, host_dense):
    assert "run.py" in read_manifest(bundle).sha256
    write_artifact(host_dense, DENSE_FIELDS, bundle, targets.host())
    assert sorted(os.listdir(bundle)) == ["lib.so", "manifest.json"]


def test_outputs_may_have_any_name(tmp_path):
    host = targets.host()
    bundle = write_artifact(
        small_models.two_outputs(host), TWO_FIELDS, tmp_path / "two", host, bundle=True
    )
    np.savez(tmp_path / "in.npz", x=np.ones(5, np.float32), b=np.full(7, 255, np.uint8))
    done = run_bundle(bundle, "in.npz", "out.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        assert out["file"].tolist() == [2.0] * 5
        assert out["counts"].tolist() == [8] * 7


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({}, "no array 'x'"),
        ({"x": np.zeros((3, 64), np.float32)}, "float32"),
        ({"x": np.zeros((3, 65), np.int8)}, "[3, 65]"),
    ],
)
def test_wrong_inputs_are_one_line(bundle, tmp_path, arrays, word):
    np.savez(tmp_path / "in.npz", **arrays)
    done = run_bundle(bundle, "in.npz", "out.npz")
    assert done.returncode == 1
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("args", [["none.npz", "out.npz"], ["text.npz", "out.npz"]])
def test_unreadable_inputs_are_one_line(bundle, tmp_path, args):
    (tmp_path / "text.npz").write_text("x = 1")
    done = run_bundle(bundle, *args)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_without_the_package_index_a_foreign_bundle_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    other = next(t for t in targets.all_targets() if t.arch != targets.host().arch)
    with pytest.raises(TargetError) as caught:
        write_artifact(
            small_models.dense(other), DENSE_FIELDS, tmp_path / "bundle", other, bundle=True
        )
    message = str(caught.value)
    assert "\n" not in message
    assert "libtvm_runtime.so" in message
    assert "package index" in message
    assert os.listdir(cache_folder()) == []
    assert not (tmp_path / "bundle").exists()


def test_an_unusable_cache_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    other = next(t for t in targets.all_targets() if t.arch != targets.host().arch)
    with pytest.raises(TargetError, match="cannot be kept") as caught:
        runtime_library(other.arch)
    assert "\n" not in str(caught.value)
