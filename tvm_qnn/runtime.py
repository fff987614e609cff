"""Load and run compiled models.

Needs numpy, ``apache-tvm-ffi`` and the TVM runtime library; it imports neither the compiler nor any
importer of models. Loading an artifact runs the code in it: load only what you trust.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.arrays import TensorInfo
from tvm_qnn.device_run import DeviceError, Executor, Latency, check_machine, load_runtime
from tvm_qnn.errors import ArtifactError, InputError, TargetError
from tvm_qnn.gpu_run import KERNELS, GpuExecutor, compiled, kernel_module, load_cuda
from tvm_qnn.manifest import LIBRARY, Manifest, read_manifest

__all__ = ["Latency", "Program", "TensorInfo", "load"]


class Program:
    """A loaded model. Calls from several threads take turns.

    Attributes:
        manifest: what the artifact says about itself.
    """

    def __init__(self, manifest: Manifest, executor: Executor) -> None:
        self.manifest = manifest
        self._executor = executor
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Names, shapes and dtypes that :meth:`run` takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Names, shapes and dtypes that :meth:`run` returns."""
        return self.manifest.outputs

    def run(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs.

        Args:
            arrays: one array for each input, by name, of exactly its shape and dtype. Values are
                not checked; NaN and infinity are allowed.

        Returns:
            New arrays by name of the output.

        Raises:
            InputError: if a name, shape or dtype is wrong.
        """
        self._check(arrays)
        with self._lock:
            self._fill(arrays)
            results = self._executor.run()
        return {info.name: array for info, array in zip(self.outputs, results, strict=True)}

    def benchmark(
        self, arrays: dict[str, NDArray[Any]], repeat: int = 20, warmup: int = 3
    ) -> Latency:
        """Time inferences on the same inputs, copies of inputs and outputs left out.

        Args:
            arrays: as for :meth:`run`.
            repeat: timed inferences, at least 1.
            warmup: untimed inferences before them.

        Raises:
            InputError: if a name, shape, dtype or count is wrong.
        """
        if repeat < 1 or warmup < 0:
            raise InputError(f"repeat={repeat}, warmup={warmup}: give at least 1 and 0")
        self._check(arrays)
        with self._lock:
            self._fill(arrays)
            return self._executor.benchmark(repeat, warmup)

    def _fill(self, arrays: dict[str, NDArray[Any]]) -> None:
        for info, buffer in zip(self.inputs, self._executor.inputs, strict=True):
            buffer[...] = arrays[info.name]

    def _check(self, arrays: dict[str, NDArray[Any]]) -> None:
        expected = [info.name for info in self.inputs]
        for name in arrays:
            if name not in expected:
                raise InputError(f"input {name!r}: the model has none of that name, but {expected}")
        for info in self.inputs:
            if info.name not in arrays:
                raise InputError(f"input {info}: it is missing; give one array for each input")
            array = arrays[info.name]
            if not isinstance(array, np.ndarray):
                raise InputError(f"input {info}: give a numpy array, not {type(array).__name__}")
            if array.dtype != np.dtype(info.dtype):
                raise InputError(f"input {info}: the array is {array.dtype}; convert it first")
            if array.shape != info.shape:
                raise InputError(f"input {info}: the array has shape {list(array.shape)}")


def load(folder: str | Path, threads: int = 1) -> Program:
    """Load an artifact.

    Args:
        folder: what ``compile`` wrote.
        threads: how many threads a kernel may use.

    Raises:
        ArtifactError: if the artifact is missing, damaged, or made for another machine or version.
        InputError: if there are fewer cores than ``threads``.
    """
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise InputError(f"threads={threads}: this process may use 1 to {cores}")
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        check_machine(manifest.target)
        _check_version(manifest)
        load_runtime(folder)
        if "gpu" in manifest.target:
            load_cuda()
    except DeviceError as error:
        raise ArtifactError(f"artifact {folder}: {error}; compile it for this machine") from None
    executor = _open(folder / LIBRARY, manifest, threads)
    if executor.prepared != manifest.prepared:
        raise ArtifactError(
            f"artifact {folder}: {LIBRARY} prepares {executor.prepared} tensors, the manifest says "
            f"{manifest.prepared}; compile the model again"
        )
    return Program(manifest, executor)


def _open(library: Path, manifest: Manifest, threads: int) -> Executor:
    """Load the library under a name of its own.

    The loader of the system returns what it has when it meets a path again, so a model that was
    compiled anew into the same folder would run its old code.
    """
    inputs = [(info.shape, info.dtype) for info in manifest.inputs]
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / LIBRARY
        link.symlink_to(library.resolve())
        if (gpu := manifest.target.get("gpu")) is None:
            return Executor(link, inputs, threads)
        stored = (library.parent / KERNELS[gpu["form"]]).read_bytes()
        try:
            code, form = compiled(stored, gpu["form"], gpu["arch"])
        except TargetError as error:
            raise ArtifactError(
                f"artifact {library.parent}: its kernels are source, and {error}"
            ) from None
        return GpuExecutor(link, kernel_module(code, form, gpu["functions"]), inputs)


def _check_version(manifest: Manifest) -> None:
    """Refuse executables of another release of TVM, whose format may differ."""
    made = manifest.versions["apache-tvm"]
    try:
        installed = version("apache-tvm")
    except PackageNotFoundError:
        return
    release = re.compile(r"\d+\.\d+")
    if release.findall(made)[:1] != release.findall(installed)[:1]:
        raise DeviceError(f"made with apache-tvm {made}, but {installed} is installed")
