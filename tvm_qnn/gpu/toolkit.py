"""In which form the kernels of a program are stored, and how they get there."""

from __future__ import annotations

from tvm_qnn.cuda_source import compile_source, compiler
from tvm_qnn.targets.record import Gpu

SOURCE, BINARY, PORTABLE = "cuda", "cubin", "ptx"
"""Forms of kernels: CUDA C++, code of one kind of chip, code for all later ones as well."""


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
    if compiler() is None:
        return source.encode()
    return compile_source(source, gpu.arch, portable=gpu.portable)
