import json
import shutil

import numpy as np
import pytest

from tests import small_models
from tvm_qnn import targets
from tvm_qnn.artifact import read_manifest, write_artifact
from tvm_qnn.emulation import EmulationError, run_emulated

ILLEGAL_INSTRUCTION = -4

pytestmark = pytest.mark.emulated


def squares():
    return np.random.default_rng(5).integers(-128, 128, 16, dtype=np.int8)


@pytest.fixture(scope="module")
def dot_bundle(tmp_path_factory):
    """A bundle for a Raspberry Pi 5 that consists of one SDOT, and a file of inputs."""
    folder = tmp_path_factory.mktemp("emulated")
    target = targets.get("rpi5")
    bundle = write_artifact(
        small_models.dot_product(target),
        small_models.DOT_FIELDS,
        folder / "dot",
        target,
        bundle=True,
    )
    np.savez(folder / "in.npz", x=squares())
    return bundle, folder / "in.npz"


@pytest.mark.parametrize("name", ["aarch64", "rpi3", "rpi4", "rpi5"])
def test_a_bundle_computes_the_same_integers_on_every_board(name, tmp_path):
    target = targets.get(name)
    bundle = write_artifact(
        small_models.dense(target),
        small_models.DENSE_FIELDS,
        tmp_path / "dense",
        target,
        bundle=True,
    )
    read_manifest(bundle)
    x = np.random.default_rng(6).integers(-128, 128, (3, 64), dtype=np.int8)
    np.savez(tmp_path / "in.npz", x=x)
    out = run_emulated(bundle, target.qemu_cpu, tmp_path / "in.npz")
    assert list(out) == ["y/0:out"]
    assert (out["y/0:out"] == small_models.dense_expected(x)).all()


def test_dot_product_code_runs_where_the_processor_has_it(dot_bundle):
    out = run_emulated(dot_bundle[0], "cortex-a76", dot_bundle[1])
    assert (out["y"] == (squares().astype(np.int32) ** 2).reshape(4, 4).sum(axis=1)).all()


def test_dot_product_code_is_refused_where_the_processor_lacks_it(dot_bundle):
    with pytest.raises(EmulationError, match="asimddp") as caught:
        run_emulated(dot_bundle[0], "cortex-a72", dot_bundle[1])
    assert caught.value.returncode == 1
    assert "Traceback" not in caught.value.output


def test_dot_product_code_traps_where_the_check_is_bypassed(dot_bundle, tmp_path):
    bundle = shutil.copytree(dot_bundle[0], tmp_path / "dot")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["target"]["flags"] = []
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EmulationError) as caught:
        run_emulated(bundle, "cortex-a72", dot_bundle[1])
    assert caught.value.returncode == ILLEGAL_INSTRUCTION


def test_a_bundle_carries_the_device_runtime_and_its_licence(dot_bundle):
    bundle, _ = dot_bundle
    runtime = (bundle / "libtvm_runtime.so").read_bytes()
    assert runtime[:4] == b"\x7fELF"
    assert runtime[18] == 183  # EM_AARCH64
    assert "Apache License" in (bundle / "LICENSE.apache-tvm.txt").read_text()
    text = (bundle / "README.txt").read_text()
    assert f"apache-tvm-ffi=={read_manifest(bundle).versions['apache-tvm-ffi']}" in text
    assert "int8 [16]" in text


def test_wrong_inputs_of_a_bundle_are_one_line(dot_bundle, tmp_path):
    np.savez(tmp_path / "short.npz", x=squares()[:8])
    with pytest.raises(EmulationError, match=r"int8 \[8\]") as caught:
        run_emulated(dot_bundle[0], "cortex-a76", tmp_path / "short.npz")
    assert "Traceback" not in caught.value.output
