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
from tvm_qnn.targets.record import Gpu

SOURCE, BINARY, PORTABLE = "cuda", "cubin", "ptx"
"""Forms of kernels: CUDA C++, code of one kind of chip, code for all later ones as well."""

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
# Divisions are rounded and tiny numbers kept, as the definitions have it.
_FLAGS = ("--std=c++17", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")


def compiler() -> str | None:
    """Return what compiles CUDA here: ``nvrtc``, ``nvcc``, or None."""
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings"):
        return "nvrtc"
    return "nvcc" if shutil.which("nvcc") else None


def form(gpu: Gpu) -> str:
    """Return the form in which kernels for a GPU are stored on this machine."""
    if compiler() is None:
        return SOURCE
    return PORTABLE if gpu.portable else BINARY


def compile_kernels(source: str, gpu: Gpu) -> bytes:
    """Compile kernels.

    Args:
        source: as TVM generates it.
        gpu: for which chip.

    Returns:
        code of the form :func:`form`, the source itself where nothing compiles it.

    Raises:
        TargetError: the compiler does not take it, or does not know the chip.
    """
    how = compiler()
    if how is None:
        return source.encode()
    return _nvrtc(source, gpu) if how == "nvrtc" else _nvcc(source, gpu)


def _architecture(gpu: Gpu) -> str:
    return gpu.arch.replace("sm_", "compute_") if gpu.portable else gpu.arch


def _nvrtc(source: str, gpu: Gpu) -> bytes:
    from cuda.bindings import nvrtc

    def check(result: tuple[Any, ...], log: str = "") -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise TargetError(f"NVRTC for {gpu.arch}: {result[0].name} {log}".rstrip())
        return result[1] if len(result) > 1 else None

    program = check(nvrtc.nvrtcCreateProgram(_without_headers(source).encode(), b"k.cu", 0, [], []))
    options = [f"--gpu-architecture={_architecture(gpu)}", "-default-device", *_FLAGS]
    done = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
    nvrtc.nvrtcGetProgramLog(program, log)
    check(done, _first_error(log.decode(errors="replace")))
    if gpu.portable:
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


def _nvcc(source: str, gpu: Gpu) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
        unit, code = Path(folder) / "k.cu", Path(folder) / "code"
        unit.write_text(source, encoding="utf-8")
        kind = "-ptx" if gpu.portable else "-cubin"
        command = ["nvcc", kind, "-O3", f"-arch={_architecture(gpu)}", *_FLAGS]
        command += ["-o", str(code), str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = _first_error(done.stderr + done.stdout)
            raise TargetError(f"nvcc for {gpu.arch}: {said}")
        return code.read_bytes()


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
