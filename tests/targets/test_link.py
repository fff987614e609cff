import ctypes
import platform
import struct
import sys

import pytest

from tests.small_models import dense
from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.link import linker

ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(scope="module", params=["rpi3", "rpi5", "x86-avx2"])
def linked(request, tmp_path_factory):
    target = targets.get(request.param)
    file = tmp_path_factory.mktemp("link") / "lib.so"
    dense(target).export_library(str(file), fcompile=linker(target))
    return target, file


def test_the_library_is_for_the_target_and_stripped(linked):
    target, file = linked
    data = file.read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", data, 18)[0] == ELF_MACHINE[target.arch]
    assert b".symtab" not in data
    assert b"/tmp/" not in data


def test_the_same_model_gives_the_same_bytes(linked, tmp_path):
    target, file = linked
    again = tmp_path / "another-name.so"
    dense(target).export_library(str(again), fcompile=linker(target))
    assert again.read_bytes() == file.read_bytes()


def test_another_model_gives_other_bytes(linked, tmp_path):
    target, file = linked
    other = tmp_path / "lib.so"
    dense(target, offset=1).export_library(str(other), fcompile=linker(target))
    assert other.read_bytes() != file.read_bytes()


@pytest.mark.parametrize("tools", ["system", "ziglang"])
def test_either_linker_serves_the_host(tools, tmp_path, monkeypatch):
    if tools == "ziglang":
        monkeypatch.setenv("PATH", "")
    host = targets.host()
    file = tmp_path / "lib.so"
    dense(host).export_library(str(file), fcompile=linker(host))
    # Loading resolves every symbol but the error reporter of libtvm_ffi, which is in the process.
    assert hasattr(ctypes.CDLL(str(file)), "__tvm_ffi__library_bin")


@pytest.mark.parametrize("name", ["host", "rpi4"])
def test_without_a_linker_the_error_names_both_remedies(name, monkeypatch):
    target = targets.get(name)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError) as caught:
        linker(target)
    message = str(caught.value)
    assert "tvm-qnn[cross]" in message
    assert "apt-get install" in message
    assert target.triple in message
    assert "\n" not in message


def test_a_failing_linker_is_one_line(tmp_path):
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"not an object")
    for name in ("host", "rpi4"):
        with pytest.raises(TargetError, match="failed") as caught:
            linker(targets.get(name))(str(tmp_path / "out.so"), [str(broken)])
        assert "\n" not in str(caught.value)


def test_another_architecture_needs_no_compiler_of_this_machine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    other = "rpi4" if platform.machine() == "x86_64" else "x86-avx2"
    assert "ld.lld" in linker(targets.get(other)).command
