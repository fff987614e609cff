"""Which instruction sets the code for a target depends on, and whether this machine has them."""

from __future__ import annotations

from tvm_qnn.device_run import machine_flags
from tvm_qnn.targets.record import Target

# LLVM's feature -> the flag of /proc/cpuinfo, for instructions that LLVM emits of its own accord.
_X86 = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avx512vp2intersect": "avx512_vp2intersect",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
}
_AARCH64 = {
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "rdm": "asimdrdm",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}

# What the kernels ask for -> the flags that it takes.
FEATURE_FLAGS: dict[str, frozenset[str]] = {
    "avx2": frozenset({"avx2", "fma"}),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    "vnni": frozenset({"avx512_vnni"}),
    "vpopcntdq": frozenset({"avx512_vpopcntdq", "avx512_bitalg"}),
    "neon": frozenset({"asimd"}),
    "dotprod": frozenset({"asimddp"}),
}


def flag_of_feature(arch: str) -> dict[str, str]:
    """Return the flags by LLVM's names of features, of those that matter on ``arch``."""
    return {"x86_64": _X86, "aarch64": _AARCH64}.get(arch, {})


def features_of(flags: frozenset[str]) -> frozenset[str]:
    """Return the features for kernels that a machine with these flags has."""
    return frozenset(name for name, needed in FEATURE_FLAGS.items() if needed <= flags)


def required_flags(target: Target) -> frozenset[str]:
    """Return the flags of /proc/cpuinfo that compiled code for ``target`` may depend on.

    They are all that LLVM associates with the processor and the extra attributes, not only those
    that a given kernel uses.

    Raises:
        TargetError: if LLVM does not know the processor.
    """
    from tvm_qnn._tvm import tvm

    features = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target.tvm())}
    names = flag_of_feature(target.arch)
    return frozenset(flag for feature, flag in names.items() if feature in features)


def missing_flags(target: Target) -> list[str]:
    """Return the required flags that this machine lacks; empty where the system does not tell."""
    flags = machine_flags()
    return [] if flags is None else sorted(required_flags(target) - flags)
