"""What runs in worker processes, so that a candidate that crashes or hangs takes nothing along."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tvm
from tvm_qnn.estimate import kernels, programs
from tvm_qnn.gpu import here as gpu
from tvm_qnn.targets.link import Linker
from tvm_qnn.targets.record import Target

SHORTEST = 0.005
"""Seconds of one timing at least."""
TIMINGS = 5


class WrongResultError(Exception):
    """A candidate does not compute what the definition says."""


def build(module: Any, target: Target, linker: Linker, path: str, entry: str) -> str:
    """Compile a candidate to a shared library at ``path``."""
    if target.gpu is not None:
        gpu.export(module, target, path, linker)
    else:
        tvm.compile(module, target.tvm()).export_library(path, fcompile=linker)
    return path


def measure(path: str, arguments: str, entry: str) -> float:
    """Run a candidate on this machine, check its result and return its seconds a call."""
    return _timed(tvm.runtime.load_module(path), tvm.cpu(), arguments, entry)


def measure_on_gpu(path: str, arguments: str, entry: str) -> float:
    """Do what :func:`measure` does on the GPU of this machine, timed by its own clock."""
    return _timed(gpu.load(path), tvm.cuda(0), arguments, entry)


def measure_remotely(
    path: str, arguments: str, entry: str, host: str, port: int, key: str, seconds: float
) -> float:
    """Do what :func:`measure` does on the next free board of a tracker, which ends it in time."""
    from tvm import rpc

    session = rpc.connect_tracker(host, port).request(key, session_timeout=seconds)
    name = Path(path).name
    session.upload(path)
    try:
        return _timed(session.load_module(name), session.cpu(0), arguments, entry)
    finally:
        session.remove(name)


def _timed(module: Any, device: Any, arguments: str, entry: str) -> float:
    given = load_arguments(arguments)
    tensors = [tvm.runtime.tensor(a, device) for a in given[:-1]]
    module[entry](*tensors)
    check(tensors[-1].numpy(), given[-1])
    first = module.time_evaluator(entry, device, number=1, repeat=1)(*tensors).mean
    number = max(1, int(SHORTEST / first))
    timer = module.time_evaluator(entry, device, number=number, repeat=TIMINGS)
    # What else runs on the machine only ever adds.
    return float(min(timer(*tensors).results))


def estimate(module: Any, target: Target, arguments: str, entry: str) -> float:
    """Emulate a candidate, check its result and return its modelled cycles."""
    given = load_arguments(arguments)
    call = programs.Call("kernel", tuple(a.copy() for a in given[:-1]))
    found = kernels.estimate_call(module[entry], [call], target, {})
    check(found.output, given[-1])
    return found.cycles


def check(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Compare a result with the definition.

    Raises:
        WrongResultError: they differ.
    """
    differing = int((found != expected).sum())
    if differing:
        raise WrongResultError(f"{differing} of {expected.size} results differ")


@functools.lru_cache(maxsize=4)
def load_arguments(path: str) -> tuple[NDArray[Any], ...]:
    """Read what :func:`save_arguments` wrote: the arguments, then the expected result."""
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[f"arr_{i}"] for i in range(len(arrays.files)))


def save_arguments(path: Path, arguments: tuple[NDArray[Any], ...], expected: NDArray[Any]) -> None:
    """Write the arguments of a kernel and the result that it must compute."""
    np.savez(path, *arguments, expected)
