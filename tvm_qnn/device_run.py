"""Run a compiled model on a device that has neither tvm-qnn nor the compiler.

A bundle carries this file as ``run.py``. It needs numpy, ``apache-tvm-ffi`` and
``libtvm_runtime.so``, which is why it imports nothing else of this package;
:mod:`tvm_qnn.runtime` is built on it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNTIME_LIBRARY = "libtvm_runtime.so"

# Bits of AT_HWCAP and AT_HWCAP2 (Linux, arch/arm64/include/uapi/asm/hwcap.h) that compiled code
# can depend on, by their names in /proc/cpuinfo.
_HWCAP = {"asimd": 1, "asimdhp": 10, "asimdrdm": 12, "asimddp": 20, "sve": 22}
_HWCAP2 = {"sve2": 1, "i8mm": 13, "bf16": 14}

# Machine code of TVM may load whole aligned vectors; numpy promises 16 bytes only.
_ALIGNMENT = 64

CPU, POOLED_ALLOCATOR = 1, 2
_SHARE_ALL_CORES = -3


class DeviceError(Exception):
    """The model cannot run on this machine; ``str(error)`` is one line."""


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference, in seconds.

    Attributes:
        median: half of the runs were faster.
        p10: one run in ten was faster.
        p90: nine runs in ten were faster.
        runs: how many runs were timed.
    """

    median: float
    p10: float
    p90: float
    runs: int


def machine_arch() -> str:
    """Return the architecture of this machine as targets write it (``x86_64``, ``aarch64``)."""
    name = platform.machine().lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def machine_flags() -> frozenset[str] | None:
    """Return the instruction sets of this machine by their names in ``/proc/cpuinfo``.

    On AArch64 they come from ``getauxval``, which the emulator qemu-user answers as well.
    None where the system does not tell.
    """
    if machine_arch() == "aarch64" and sys.platform == "linux":
        auxiliary = ctypes.CDLL(None).getauxval
        auxiliary.restype, auxiliary.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        first, second = int(auxiliary(16)), int(auxiliary(26))
        found = [name for name, bit in _HWCAP.items() if first >> bit & 1]
        return frozenset(found + [name for name, bit in _HWCAP2.items() if second >> bit & 1])
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return frozenset(flags[0]) if flags else None


def check_machine(target: dict[str, Any]) -> None:
    """Refuse code that this machine cannot execute, before it dies of an illegal instruction.

    Args:
        target: the ``target`` of a manifest.

    Raises:
        DeviceError: if the architecture differs or instruction sets are missing.
    """
    made_for = f"made for {target['name']} ({target['cpu']})"
    if machine_arch() != target["arch"]:
        raise DeviceError(f"{made_for}, {target['arch']}, but this machine is {machine_arch()}")
    flags = machine_flags()
    missing = sorted(set(target["flags"]) - flags) if flags is not None else []
    if missing:
        raise DeviceError(f"{made_for}, but this processor lacks {', '.join(missing)}")


def import_ffi() -> Any:
    """Import ``tvm_ffi`` without PyTorch.

    ``tvm_ffi`` imports PyTorch first, for the order in which Windows loads libraries. Nothing here
    needs it, and it takes seconds; tensors of PyTorch still pass through DLPack later.
    """
    if "tvm_ffi" not in sys.modules and "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            import tvm_ffi
        finally:
            del sys.modules["torch"]
    import tvm_ffi

    return tvm_ffi


def installed_runtime() -> Path | None:
    """Return ``libtvm_runtime.so`` of the installed apache-tvm, without importing tvm."""
    spec = importlib.util.find_spec("tvm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        library = Path(folder) / "lib" / RUNTIME_LIBRARY
        if library.is_file():
            return library
    return None


def load_runtime(beside: Path) -> None:
    """Load the TVM runtime library into this process, unless it is there already.

    A second copy would register every function again and abort the process. So the installed
    apache-tvm comes first, since ``import tvm`` may follow, and the copy of a bundle second.

    Args:
        beside: folder of the artifact, where a bundle has its copy.

    Raises:
        DeviceError: if there is none.
    """
    if import_ffi().get_global_func("runtime.config_threadpool", allow_missing=True) is not None:
        return
    for library in (installed_runtime(), beside / RUNTIME_LIBRARY):
        if library is not None and library.is_file():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            return
    raise DeviceError(
        f"no {RUNTIME_LIBRARY}: pip install apache-tvm, or compile the model as a bundle"
    )


_configured = threading.local()


def use_threads(count: int) -> None:
    """Let kernels that are called from this thread use ``count`` threads.

    TVM keeps one pool for each calling thread, and by default ties the caller to one core for good;
    the mode used here leaves it free to move.
    """
    if getattr(_configured, "count", None) != count:
        cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
        configure = import_ffi().get_global_func("runtime.config_threadpool")
        configure(_SHARE_ALL_CORES, count, cores, count)
        _configured.count = count


def _aligned(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(tuple(shape))


def tensors_of(result: Any) -> list[Any]:
    """Return the results of ``main``: only a tensor has a dtype, a tuple arrives as an array."""
    return [result] if hasattr(result, "dtype") else list(result)


class Executor:
    """A loaded library with its prepared weights and one aligned buffer for each input.

    Attributes:
        inputs: the buffers; fill them, then :meth:`call`.
        prepared: number of tensors that ``prepare`` of the library returned.
    """

    def __init__(
        self, library: Path, inputs: Sequence[tuple[Sequence[int], str]], threads: int = 1
    ) -> None:
        ffi = import_ffi()
        machine = ffi.load_module(str(library))["vm_load_executable"]()
        machine["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
        self._main = machine["main"]
        self._threads = threads
        use_threads(threads)
        prepared = list(machine["prepare"]())
        self.prepared = len(prepared)
        self.inputs = [_aligned(shape, dtype) for shape, dtype in inputs]
        self._arguments = [*(ffi.from_dlpack(array) for array in self.inputs), *prepared]

    def call(self) -> Any:
        """Run ``main`` on the buffers and return its result as it is."""
        return self._main(*self._arguments)

    def run(self) -> list[NDArray[Any]]:
        """Run ``main`` on the buffers and return copies of its results."""
        use_threads(self._threads)
        return [np.from_dlpack(tensor).copy() for tensor in tensors_of(self.call())]

    def benchmark(self, repeat: int, warmup: int) -> Latency:
        """Time ``repeat`` calls after ``warmup`` untimed ones."""
        use_threads(self._threads)
        for _ in range(warmup):
            self.call()
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            self.call()
            times.append(time.perf_counter() - start)
        p10, median, p90 = (float(p) for p in np.percentile(times, [10, 50, 90]))
        return Latency(median=median, p10=p10, p90=p90, runs=repeat)


def _fill(executor: Executor, specs: list[dict[str, Any]], file: str) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        for spec, buffer in zip(specs, executor.inputs, strict=True):
            if spec["name"] not in arrays:
                raise DeviceError(f"{file} has no array {spec['name']!r}, but {list(arrays)}")
            array = arrays[spec["name"]]
            if array.dtype != buffer.dtype or array.shape != buffer.shape:
                raise DeviceError(
                    f"{file}: {spec['name']!r} is {array.dtype} {list(array.shape)}, "
                    f"the model takes {buffer.dtype} {list(buffer.shape)}"
                )
            buffer[...] = array


def _save(file: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an ``.npz``; ``numpy.savez`` cannot, for arrays that are called ``file``."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def main() -> None:
    """Run the model beside this file on one file of inputs."""
    parser = argparse.ArgumentParser(description="Run the compiled model of this folder.")
    parser.add_argument("inputs", help="inputs, one array for each name (numpy .npz)")
    parser.add_argument("outputs", help="where to write the outputs (numpy .npz)")
    parser.add_argument("--repeat", type=int, default=10, help="timed runs")
    parser.add_argument("--threads", type=int, default=1, help="threads for each kernel")
    args = parser.parse_args()
    if min(args.repeat, args.threads) < 1:
        parser.error("--repeat and --threads take numbers from 1")
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    try:
        check_machine(manifest["target"])
        load_runtime(folder)
        specs = manifest["inputs"]
        executor = Executor(
            folder / "lib.so", [(s["shape"], s["dtype"]) for s in specs], args.threads
        )
        _fill(executor, specs, args.inputs)
        names = [spec["name"] for spec in manifest["outputs"]]
        _save(args.outputs, dict(zip(names, executor.run(), strict=True)))
        latency = executor.benchmark(args.repeat, warmup=0)
    except (DeviceError, OSError, ValueError) as error:
        sys.exit(f"{manifest['model']}: {error}")
    print(
        f"latency: median {latency.median * 1e3:.3f} ms, p10 {latency.p10 * 1e3:.3f} ms, "
        f"p90 {latency.p90 * 1e3:.3f} ms ({latency.runs} runs)"
    )


if __name__ == "__main__":
    main()
