"""Kernels compile for real chips, hold the instructions meant for them, and spill nothing."""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu.emulation import source_of, source_of_model
from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.gpu import toolkit
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import family
from tvm_qnn.spec import Codes
from tvm_qnn.targets import cuda

U8, S8, U2, S2 = Codes(0, 255), Codes(-128, 127), Codes(0, 3), Codes(-2, 1)
BYTES = ConvWork(
    1, 14, 14, 128, 128, (3, 3), U8, S8, padding=(1, 1, 1, 1), epilogue=Epilogue("requantize", U8)
)
BITS = ConvWork(
    1, 14, 14, 128, 128, (3, 3), U2, S2, padding=(1, 1, 1, 1), x_planes=True,
    epilogue=Epilogue("requantize", U2, pack=True),
)  # fmt: skip
EACH = replace(BYTES, groups=128, w_zero=tuple(range(128)))
NIBBLES = replace(BYTES, x=Codes(0, 15), w=Codes(-8, 7), epilogue=Epilogue())
FOUR = replace(BYTES, w=Codes(-8, 7))
ROW = ConvWork(1, 1, 1, 4096, 64, (1, 1), U8, S2)
MEANT = {
    ("mma", BYTES): r"IMMA\.16832\.U8\.S8",
    ("bmma", BITS): r"BMMA\.168256\.AND\.POPC",
    ("dot", BYTES): r"IDP\.4A\.U8\.S8",
    ("dot", EACH): r"IMAD$|IDP",
    ("bitserial", BITS): r"POPC",
    ("gemv", ROW): r"IDP\.4A\.U8\.U8",
    ("mma4", NIBBLES): r"IMMA\.16864\.U4\.S4",
    ("unpack", FOUR): r"IMMA\.16832\.U8\.S8",
}

pytestmark = pytest.mark.skipif(
    toolkit.compiler() is None, reason="pip install 'tvm-qnn[cuda]' compiles CUDA"
)


def disassembler():
    nvidia = pytest.importorskip("nvidia")
    found = [Path(folder) / "cu13/bin/nvdisasm" for folder in nvidia.__path__]
    path = next((p for p in found if p.exists()), None) or shutil.which("nvdisasm")
    if path is None:
        pytest.skip("pip install nvidia-cuda-nvdisasm shows instructions")
    return str(path)


def instructions(code, folder):
    """How often a binary holds each instruction."""
    (folder / "kernels.cubin").write_bytes(code)
    command = [disassembler(), "-c", str(folder / "kernels.cubin")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Instructions that a chip lacks are calls of functions of the compiler; divisions always are.
    called = set(re.findall(r"\$__cuda_\w+", text))
    assert not [name for name in called if "_div_" not in name and "_rcp_" not in name]
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", text)
    return Counter(found)


@pytest.mark.parametrize("chip", ["cuda-sm80", "cuda-sm90"])
@pytest.mark.parametrize(("name", "work"), [pytest.param(n, w, id=w.name(n)) for n, w in MEANT])
def test_kernels_hold_their_instruction_and_spill_nothing(chip, name, work, tmp_path):
    meant, target = MEANT[name, work], targets.get(chip)
    refused = family(name).supports(work, target)
    if refused is not None:
        assert (name, chip) == ("mma4", "cuda-sm90")
        return
    kernels = source_of(work, family(name), target)
    found = instructions(toolkit.compile_kernels(kernels.source, target.gpu), tmp_path)
    assert sum(count for i, count in found.items() if re.match(meant, i)) >= 4
    assert not [i for i in found if re.match(r"LDL|STL", i)]
    # Tensor cores multiply while the next operands arrive, zeros around the image included.
    copied = sum(count for i, count in found.items() if i.startswith("LDGSTS"))
    assert (copied >= 4) == (name in ("mma", "bmma", "mma4", "unpack"))


@pytest.mark.parametrize("chip", ["cuda-sm80", "cuda-sm90"])
@pytest.mark.parametrize("name", ["maqd-cifar10", "maqd-fashion", "mqnn-fashion", "qmann-1"])
def test_kernels_of_zoo_networks_spill_nothing(chip, name, tmp_path):
    target = targets.get(chip)
    kernels = source_of_model(f"zoo:{name}", target)
    found = instructions(toolkit.compile_kernels(kernels.source, target.gpu), tmp_path)
    assert not [i for i in found if re.match(r"LDL|STL", i)]


@pytest.mark.parametrize("target", cuda.ALL, ids=lambda target: target.name)
def test_every_chip_has_code(target):
    kernels = source_of(BYTES, family("dot"), target)
    code = toolkit.compile_kernels(kernels.source, target.gpu)
    if toolkit.form(target.gpu) == toolkit.PORTABLE:
        assert f".target {target.gpu.arch}".encode() in code
    else:
        assert code.startswith(b"\x7fELF")


def test_drivers_of_cuda_13_0_take_portable_code(tmp_path):
    target = targets.get("cuda")
    kernels = source_of(BYTES, family("dot"), target)
    ptx = toolkit.compile_kernels(kernels.source, target.gpu)
    major, minor = re.search(rb"^\.version (\d+)\.(\d+)", ptx, re.M).groups()
    assert (int(major), int(minor)) <= (9, 0)
    if assembler := shutil.which("ptxas"):
        (tmp_path / "k.ptx").write_bytes(ptx.rstrip(b"\0"))
        command = [assembler, "-arch=sm_90", "-o", str(tmp_path / "k"), str(tmp_path / "k.ptx")]
        subprocess.run(command, check=True)


def test_source_that_does_not_compile_is_one_line():
    gpu = targets.get("cuda-sm80").gpu
    with pytest.raises(TargetError, match="sm_80") as caught:
        toolkit.compile_kernels('extern "C" __global__ void k() { nonsense(); }', gpu)
    assert "nonsense" in str(caught.value)
    assert "\n" not in str(caught.value)
