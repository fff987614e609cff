"""The machine that runs this program, as a target."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from tvm_qnn.device_run import machine_arch, machine_flags
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.arm import RPI4, RPI5
from tvm_qnn.targets.instructions import features_of, flag_of_feature
from tvm_qnn.targets.record import Rates, Target
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

_BASELINE = {"x86_64": "x86-64", "aarch64": "generic"}
_BASELINE_FLAGS = {"x86_64": frozenset({"sse2"}), "aarch64": frozenset({"asimd"})}


@functools.cache
def host() -> Target:
    """Return this machine as target ``host``.

    The processor is the one that LLVM recognises, less every instruction set that the system does
    not report (a virtual machine may hide some). Where either is unknown the target is the baseline
    of the architecture, and its description says why.

    Raises:
        TargetError: on systems other than Linux on x86-64 and AArch64.
    """
    arch = machine_arch()
    if sys.platform != "linux" or arch not in _BASELINE:
        raise TargetError(
            f"target host: {sys.platform} on {arch} is not supported; choose a named target"
        )
    from tvm_qnn._tvm import tvm

    codegen = tvm.target.codegen
    return detect(arch, str(codegen.llvm_get_system_cpu()), machine_flags(), _usable_cores())


def processor() -> str:
    """Return what this machine calls its processor, else what LLVM takes it for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [v.strip() for k, _, v in (line.partition(":") for line in lines) if "model name" in k]
    return names[0] if names else host().cpu


def detect(arch: str, cpu: str, flags: frozenset[str] | None, cores: int) -> Target:
    """Return the target ``host`` for what was found out about a machine.

    Args:
        arch: ``x86_64`` or ``aarch64``.
        cpu: what LLVM takes the processor for.
        flags: instruction sets that the system reports, None if it does not tell.
        cores: number of usable cores.
    """
    from tvm_qnn._tvm import tvm

    codegen = tvm.target.codegen
    triple = f"{arch}-linux-gnu"
    reason = None
    if flags is None:
        reason = "the system does not report the instruction sets"
    elif cpu in ("", "generic", "x86-64") or not codegen.llvm_is_valid_cpu(cpu, triple):
        reason = f"LLVM does not know the processor {cpu!r}"
    hidden: list[str] = []
    if reason is not None or flags is None:
        cpu, flags = _BASELINE[arch], _BASELINE_FLAGS[arch]
    else:
        implied = codegen.llvm_get_cpu_features(
            tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
        )
        names = flag_of_feature(arch)
        hidden = sorted(n for n in map(str, implied) if n in names and names[n] not in flags)
    features = features_of(flags)
    return Target(
        name="host",
        description=f"this machine ({cpu})"
        if reason is None
        else f"this machine, as {cpu}: {reason}",
        triple=triple,
        cpu=cpu,
        arch=arch,
        features=features,
        rates=_rates(arch, features),
        cores=cores,
        attributes=tuple(f"-{name}" for name in hidden),
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _rates(arch: str, features: frozenset[str]) -> Rates:
    if arch == "aarch64":
        return RPI5.rates if "dotprod" in features else RPI4.rates
    for target in (AVX512_VNNI, AVX2):
        if target.features <= features:
            return target.rates
    return Rates(dot=8, bitserial=32, reference=1, source="SSE2, scalar popcount")
