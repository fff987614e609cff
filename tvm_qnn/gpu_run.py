"""Run compiled models on an NVIDIA GPU.

Needs the driver, TVM's runtime for CUDA, which comes with apache-tvm, and the CUDA runtime library,
which the extra ``cuda`` brings. TVM loads its part only where the others are found.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.cuda_source import compile_source
from tvm_qnn.device_run import (
    CPU,
    POOLED_ALLOCATOR,
    DeviceError,
    Executor,
    Latency,
    import_ffi,
    installed_runtime,
    tensors_of,
    use_threads,
)

KERNELS = {"cubin": "kernels.cubin", "ptx": "kernels.ptx", "cuda": "kernels.cu"}
"""The file of an artifact that has the kernels, by their form."""
GPU = (2, 0)
"""Type and number of the device, as DLPack counts them."""
_CREATE = "ffi.Module.create.cuda"
_DRIVER, _CUDART = "libcuda.so.1", "libcudart.so.13"


def load_cuda() -> None:
    """Load TVM's runtime for CUDA into this process.

    Raises:
        DeviceError: if a part of what it needs is missing.
    """
    if import_ffi().get_global_func(_CREATE, allow_missing=True) is not None:
        return
    _load(_DRIVER, "no NVIDIA driver is installed")
    _load(_cudart() or _CUDART, f"no {_CUDART}; pip install 'tvm-qnn[cuda]'")
    runtime = installed_runtime()
    if runtime is None:
        raise DeviceError("no TVM runtime for CUDA; pip install apache-tvm")
    _load(str(runtime.with_name("libtvm_runtime_cuda.so")), "TVM has no runtime for it here")


def _load(library: str, problem: str) -> None:
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError:
        raise DeviceError(f"made for a GPU, but {problem} ({library} does not load)") from None


def _cudart() -> str | None:
    """Return the CUDA runtime library that pip installed, None without."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = Path(folder) / "cu13" / "lib" / _CUDART
        if found.is_file():
            return str(found)
    return None


def compiled(code: bytes, form: str, arch: str) -> tuple[bytes, str]:
    """Compile kernels that are stored as source; return code and form of what loads.

    Raises:
        TargetError: nothing here compiles CUDA.
    """
    if form != "cuda":
        return code, form
    return compile_source(code.decode(), arch, portable=True), "ptx"


def kernel_module(code: bytes, form: str, functions: dict[str, Any]) -> Any:
    """Return the module of kernels for the GPU.

    Args:
        code: CUDA code of that form.
        form: ``cubin`` or ``ptx``.
        functions: for each kernel the dtypes of its arguments and its launch parameters.
    """
    ffi = import_ffi()
    records = {
        name: {"name": name, "arg_types": arguments, "launch_param_tags": parameters}
        for name, (arguments, parameters) in functions.items()
    }
    text = json.dumps({"tvm_version": "0.1.0", "func_info": records})
    info = ffi.get_global_func("runtime.LoadMetaDataFromJSON")(text)
    return ffi.get_global_func(_CREATE)(code, form, info, {})


class GpuExecutor(Executor):
    """A library whose kernels run on a GPU.

    Args:
        library: the host code.
        kernels: its kernels, as :func:`kernel_module` makes them.
        inputs: shape and dtype of each input.
        device: type and number of the device.
    """

    def __init__(
        self, library: Path, kernels: Any, inputs: Sequence[tuple[Sequence[int], str]],
        device: tuple[int, int] = GPU,
    ) -> None:  # fmt: skip
        ffi = import_ffi()
        module = ffi.load_module(str(library))
        for part in module.imports:
            if part.kind == "library":
                part.import_module(kernels)
        machine = module["vm_load_executable"]()
        devices = dict.fromkeys((device, (CPU, 0)))
        machine["vm_initialization"](
            *(value for place in devices for value in (*place, POOLED_ALLOCATOR))
        )
        use_threads(1)
        prepared = list(machine["prepare"]())
        self._main, self._threads, self._device = machine["main"], 1, ffi.device(*_named(device))
        self.prepared = len(prepared)
        self.inputs = [np.zeros(tuple(shape), dtype) for shape, dtype in inputs]
        allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._memory = [
            allocate(ffi.Shape(array.shape), ffi.dtype(str(array.dtype)), self._device, None)
            for array in self.inputs
        ]
        self._arguments = [*self._memory, *prepared]
        self._write = ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._read = ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._synchronize = ffi.get_global_func("runtime.Device_StreamSync")

    def call(self) -> Any:
        """Run ``main`` on what was copied last, and wait for the GPU."""
        result = self._main(*self._arguments)
        self._synchronize(self._device, 0)
        return result

    def upload(self) -> None:
        """Copy the inputs to the GPU."""
        for array, memory in zip(self.inputs, self._memory, strict=True):
            self._write(memory, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)

    def run(self) -> list[NDArray[Any]]:
        """Run ``main`` on the inputs and return copies of its results."""
        self.upload()
        return [self._fetched(tensor) for tensor in tensors_of(self.call())]

    def benchmark(self, repeat: int, warmup: int) -> Latency:
        """See :class:`Executor`; the inputs are copied to the GPU before, untimed."""
        self.upload()
        return super().benchmark(repeat, warmup)

    def _fetched(self, tensor: Any) -> NDArray[Any]:
        found = np.empty(tuple(int(d) for d in tensor.shape), str(tensor.dtype))
        self._read(tensor, found.ctypes.data_as(ctypes.c_void_p), found.nbytes)
        return found


def _named(device: tuple[int, int]) -> tuple[str, int]:
    return ("cuda" if device[0] == GPU[0] else "cpu"), device[1]
