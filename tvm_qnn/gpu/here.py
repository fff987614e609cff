"""Kernels on the GPU of this machine, without an artifact in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvm_qnn import gpu_run
from tvm_qnn._tvm import tvm
from tvm_qnn.gpu import toolkit
from tvm_qnn.gpu.kernels import Kernels, captured
from tvm_qnn.targets.record import Gpu, Target


@contextmanager
def on_gpu(target: Target) -> Iterator[Any]:
    """Build kernels that run on the GPU at once.

    Yields:
        the ``tvm.target.Target`` to build for; tensors belong on ``tvm.cuda(0)``.

    Raises:
        DeviceError: if a part of what running them needs is missing.
    """
    assert target.gpu is not None
    gpu = target.gpu
    gpu_run.load_cuda()
    device = target.tvm()
    with captured(lambda kernels: _module(kernels, gpu)), device:
        yield device


def _module(kernels: Kernels, gpu: Gpu) -> Any:
    stored = toolkit.compile_kernels(kernels.source, gpu)
    code, form = gpu_run.compiled(stored, toolkit.form(gpu), gpu.arch)
    return gpu_run.kernel_module(code, form, kernels.functions)


def export(module: Any, target: Target, path: str, linker: Any) -> None:
    """Compile a module of PrimFuncs to a library, and its kernels to files beside it."""
    assert target.gpu is not None
    device = target.tvm()
    with captured() as kernels, device:
        tvm.compile(module, device).export_library(path, fcompile=linker)
    form = toolkit.form(target.gpu)
    Path(f"{path}.{form}").write_bytes(toolkit.compile_kernels(kernels.source, target.gpu))
    facts = {"form": form, "arch": target.gpu.arch, "functions": kernels.functions}
    Path(f"{path}.json").write_text(json.dumps(facts))


def load(path: str) -> Any:
    """Load what :func:`export` wrote.

    Raises:
        DeviceError: if a part of what running it needs is missing.
    """
    gpu_run.load_cuda()
    facts = json.loads(Path(f"{path}.json").read_text())
    stored = Path(f"{path}.{facts['form']}").read_bytes()
    code, form = gpu_run.compiled(stored, facts["form"], facts["arch"])
    library = tvm.runtime.load_module(path)
    library.import_module(gpu_run.kernel_module(code, form, facts["functions"]))
    return library
