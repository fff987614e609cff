"""Whole networks for CUDA: exact on an emulated GPU, and artifacts that a GPU machine can run."""

import json

import numpy as np
import pytest

import tvm_qnn
from tests.gpu.emulation import source_of_model
from tests.networks.models import ALL
from tvm_qnn import cuda_source, gpu_run, targets, zoo
from tvm_qnn.compiler import build_executable, prepared, read
from tvm_qnn.device_run import DeviceError, load_runtime
from tvm_qnn.errors import ArtifactError, TargetError
from tvm_qnn.gpu import emulator, toolkit
from tvm_qnn.gpu.kernels import captured
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.targets.link import linker
from tvm_qnn.verification import verify

SM80 = targets.get("cuda-sm80")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("zoo:maqd-cifar10", "cuda-sm80"),
        ("zoo:maqd-fashion", "cuda-sm90"),
        ("zoo:maqd-fashion", "cuda"),
        ("zoo:mqnn-fashion", "cuda-sm80"),
        ("zoo:qmann-1", "cuda-sm80"),
    ],
)
def test_networks_are_exact(name, target):
    found = verify(name, target=target, limit=1)
    assert found.first_wrong is None
    assert sum(layer.exact for layer in found.layers) >= 7


def test_a_network_with_depthwise_convolutions_is_exact():
    graph = ALL["mobile"]()
    model = graph.model(graph.out)
    found = verify(model, {"x": graph.input()}, target="cuda-sm80")
    assert found.first_wrong is None
    assert "qdepthwise_w4a4_dot_kernel" in source_of_model(model, SM80).functions


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "artifact"
    return tvm_qnn.compile("zoo:maqd-fashion", "cuda-sm80", folder)


def test_an_artifact_has_the_kernels_of_the_chip(artifact):
    file = gpu_run.KERNELS[toolkit.form(SM80.gpu)]
    assert sorted(f.name for f in artifact.path.iterdir()) == sorted(
        [file, "lib.so", "manifest.json"]
    )
    gpu = json.loads((artifact.path / "manifest.json").read_text())["target"]["gpu"]
    assert gpu["arch"] == "sm_80"
    kernels = {row.kernel for row in artifact.inspection.rows if row.macs}
    assert all(any(name.startswith(kernel) for name in gpu["functions"]) for kernel in kernels)


def test_source_is_stored_where_nothing_compiles_it(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "compiler", lambda: None)
    made = tvm_qnn.compile("zoo:mqnn-fashion", "cuda-sm80", tmp_path / "artifact")
    source = (made.path / "kernels.cu").read_bytes()
    assert b"__global__" in source
    gpu = made.manifest.target["gpu"]
    assert gpu["form"] == "cuda"
    # The machine with the GPU compiles it, if it can.
    code, form = gpu_run.compiled(source, gpu["form"], gpu["arch"])
    assert form == "ptx"
    assert b".target sm_80" in code
    monkeypatch.setattr(cuda_source, "compiler", lambda: None)
    with pytest.raises(TargetError, match=r"nothing compiles CUDA for sm_80; pip install"):
        gpu_run.compiled(source, gpu["form"], gpu["arch"])


def test_a_machine_without_a_driver_says_so(artifact):
    try:
        gpu_run.load_cuda()
    except DeviceError:
        with pytest.raises(ArtifactError, match=r"made for a GPU, but no .*; ") as caught:
            artifact.program  # noqa: B018
        assert "\n" not in str(caught.value)
    else:
        pytest.skip("this machine has a GPU")


def test_the_executor_runs_stored_kernels(tmp_path):
    """The way of an artifact on a GPU machine, with emulated kernels in the memory of the CPU."""
    model = read("zoo:maqd-fashion")
    lowered = to_kernels(prepared(model, SM80)[0], SM80)
    device = emulator.on_cpu(SM80)
    with captured() as kernels, device:
        executable = build_executable(lowered.module, device)
    executable.export_library(str(tmp_path / "lib.so"), fcompile=linker(SM80))
    load_runtime(tmp_path)
    image = zoo.samples("zoo:maqd-fashion")["image"]
    executor = gpu_run.GpuExecutor(
        tmp_path / "lib.so", emulator.compile_kernels(kernels, SM80.gpu.shared_bytes),
        [(model.inputs[0].shape, model.inputs[0].dtype)], device=(1, 0),
    )  # fmt: skip
    here = tvm_qnn.compile("zoo:maqd-fashion")
    for one in image[:3]:
        executor.inputs[0][...] = one
        (found,) = executor.run()
        np.testing.assert_array_equal(found, here.run({"image": one[None]})["logits"])
    assert executor.benchmark(2, 1).runs == 2


def test_what_cuda_cannot_do_is_named(tmp_path):
    with pytest.raises(TargetError, match="bundles are for boards"):
        tvm_qnn.compile("zoo:mqnn-fashion", "cuda-sm80", tmp_path / "b", bundle=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(cli):
    code, out, _ = cli("verify", "zoo:maqd-fashion", "-t", "cuda-sm80", "--limit", "1")
    assert code == 0
    assert "equal their definition" in out
    code, out, _ = cli("diff", "zoo:maqd-fashion", "--targets", "host,cuda-sm80", "--limit", "1")
    assert code == 0
    code, out, _ = cli("targets")
    assert "cuda-sm90" in out
