"""Compile CUDA C++ for a GPU, which need not be there: NVRTC from the extra ``cuda``, or nvcc."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tvm_qnn.errors import TargetError

# What NVRTC does not bring along; the generated source would take it from headers of libcu++.
_PREAMBLE = """
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
#define __asm__ asm
#define __volatile__ volatile
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
"""
_HEADERS = re.compile(r"^\s*#include <(?:cuda|mma|sm_\w+)\.h>\s*$", re.M)
_START, _END = "#ifdef __CUDACC_RTC__", "#endif"
_PTX = (9, 0)
"""The version that drivers of CUDA 13.0 take, the oldest ones for TVM's runtime."""
# Divisions are rounded and tiny numbers kept, as the definitions have it.
_FLAGS = ("--std=c++17", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")


def compiler() -> str | None:
    """Return what compiles CUDA here: ``nvrtc``, ``nvcc``, or None."""
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings"):
        return "nvrtc"
    return "nvcc" if shutil.which("nvcc") else None


def compile_source(source: str, arch: str, *, portable: bool) -> bytes:
    """Compile CUDA C++ as TVM generates it.

    Args:
        source: kernels.
        arch: of the chip, such as ``sm_80``.
        portable: make PTX, which drivers compile for that chip and later ones, instead of a binary.

    Raises:
        TargetError: nothing here compiles CUDA, or it does not take the source or the chip.
    """
    how, architecture = compiler(), arch.replace("sm_", "compute_") if portable else arch
    if how is None:
        raise TargetError(f"nothing compiles CUDA for {arch}; pip install 'tvm-qnn[cuda]'")
    code = (_nvrtc if how == "nvrtc" else _nvcc)(source, architecture, portable)
    return _for_older_drivers(code) if portable else code


def _for_older_drivers(ptx: bytes) -> bytes:
    """Let drivers take PTX that are older than what compiled it; it has nothing that is as new."""

    def oldest(found: re.Match[bytes]) -> bytes:
        version = min((int(found[1]), int(found[2])), _PTX)
        return b".version %d.%d" % version

    return re.sub(rb"^\.version (\d+)\.(\d+)", oldest, ptx, count=1, flags=re.M)


def _nvrtc(source: str, architecture: str, portable: bool) -> bytes:
    from cuda.bindings import nvrtc

    def check(result: tuple[Any, ...], log: str = "") -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise TargetError(f"NVRTC for {architecture}: {result[0].name} {log}".rstrip())
        return result[1] if len(result) > 1 else None

    program = check(nvrtc.nvrtcCreateProgram(_without_headers(source).encode(), b"k.cu", 0, [], []))
    options = [f"--gpu-architecture={architecture}", "-default-device", *_FLAGS]
    done = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
    nvrtc.nvrtcGetProgramLog(program, log)
    check(done, _first_error(log.decode(errors="replace")))
    if portable:
        size, read = nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX
    else:
        size, read = nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN
    code = b" " * check(size(program))
    check(read(program, code))
    nvrtc.nvrtcDestroyProgram(program)
    return code


def _without_headers(source: str) -> str:
    """Replace the first conditional of generated source, which chooses headers, and others."""
    start = source.find(_START)
    if start < 0:
        return _PREAMBLE + source
    depth, lines, rest = 0, 0, source[start:].splitlines(keepends=True)
    for line in rest:
        word = line.strip()
        depth += word.startswith("#if") - word.startswith(_END)
        lines += 1
        if depth == 0:
            break
    return source[:start] + _PREAMBLE + _HEADERS.sub("", "".join(rest[lines:]))


def _nvcc(source: str, architecture: str, portable: bool) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
        unit, code = Path(folder) / "k.cu", Path(folder) / "code"
        unit.write_text(source, encoding="utf-8")
        kind = "-ptx" if portable else "-cubin"
        command = ["nvcc", kind, "-O3", f"-arch={architecture}", *_FLAGS]
        command += ["-o", str(code), str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = _first_error(done.stderr + done.stdout)
            raise TargetError(f"nvcc for {architecture}: {said}")
        return code.read_bytes()


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
