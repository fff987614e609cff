"""Target records, and how to reach the devices that they describe."""

from __future__ import annotations

import shutil

from tvm_qnn.device_run import machine_arch
from tvm_qnn.errors import TargetError
from tvm_qnn.targets import arm, cuda, x86
from tvm_qnn.targets.host import host, processor
from tvm_qnn.targets.instructions import missing_flags
from tvm_qnn.targets.record import Gpu, Rates, Target

__all__ = [
    "Gpu",
    "Rates",
    "Target",
    "all_targets",
    "get",
    "host",
    "names",
    "processor",
    "reachable",
]

_RECORDS = (arm.AARCH64, arm.RPI3, arm.RPI4, arm.RPI5, x86.AVX2, x86.AVX512_VNNI, *cuda.ALL)


def all_targets() -> tuple[Target, ...]:
    """Return all records; ``host`` is not among them, since it differs between machines."""
    return _RECORDS


def names() -> list[str]:
    """Return what :func:`get` takes."""
    return ["host", *(target.name for target in _RECORDS)]


def get(name: str) -> Target:
    """Return the target of that name.

    Raises:
        TargetError: if there is none.
    """
    if name == "host":
        return host()
    for target in _RECORDS:
        if target.name == name:
            return target
    raise TargetError(f"unknown target {name!r}: choose one of {', '.join(names())}")


def _reachable_gpu(target: Target) -> str:
    """Say whether this machine has such a GPU, or emulates it."""
    if (found := cuda.here()) is not None and target in (found, cuda.CUDA):
        return "native: the GPU of this machine executes its code"
    if shutil.which("g++"):
        return "emulated: CUDA source compiled by g++, exact results, meaningless times"
    return "unreachable: apt-get install g++ emulates it, or copy the artifact to a GPU machine"


def emulator(target: Target) -> str | None:
    """Return the path of the qemu-user program for ``target``, or None if it is not installed."""
    return shutil.which(f"qemu-{target.arch}") or shutil.which(f"qemu-{target.arch}-static")


def reachable(target: Target) -> str:
    """Say in one line whether, and how, code for ``target`` can run on this machine.

    The line starts with ``native``, ``emulated`` or ``unreachable``.
    """
    if target.gpu is not None:
        return _reachable_gpu(target)
    if target.arch == machine_arch():
        missing = missing_flags(target)
        if not missing:
            return "native: this machine executes its code"
        return f"unreachable: this processor lacks {', '.join(missing)}"
    found = emulator(target)
    if found and target.qemu_cpu:
        return f"emulated: {found} -cpu {target.qemu_cpu}, exact results, meaningless times"
    return (
        f"unreachable: {target.arch} code on {machine_arch()}; "
        "apt-get install qemu-user emulates it, or copy a bundle to the device"
    )
