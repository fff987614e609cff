"""Run one kernel on this machine and compute what ``spec`` says about the same arrays."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_qnn import spec
from tvm_qnn._tvm import tvm
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import candidates
from tvm_qnn.schedules.epilogue import output_type
from tvm_qnn.targets.record import Target
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI


def random_codes(rng: np.random.Generator, codes: spec.Codes, shape: tuple[int, ...]) -> Any:
    return codes.from_index(rng.integers(0, codes.count, shape)).astype(codes.dtype)


def random_data(work: ConvWork, seed: int = 0) -> tuple[Any, Any]:
    """Random codes NHWC and OHWI."""
    rng = np.random.default_rng(seed)
    x = random_codes(rng, work.x, (work.batch, work.height, work.width, work.in_channels))
    return x, random_codes(rng, work.w, work.weight_shape)


def random_params(work: ConvWork, seed: int = 0) -> tuple[Any, ...]:
    """Random parameters of the epilogue that spread the accumulators over the codes."""
    rng = np.random.default_rng(seed + 1)
    epilogue, size = work.epilogue, work.out_channels
    if epilogue.kind == "none":
        return ()
    low, high = work.acc_range
    if epilogue.kind == "threshold":
        spread = max(2, (high - low) // 8)
        shape = (size, epilogue.codes.count - 1)
        thresholds = np.sort(rng.integers(-spread, spread + 1, shape), axis=1)
        falling = rng.integers(0, 2, size)
        thresholds = np.where(falling[:, None] == 1, thresholds[:, ::-1], thresholds)
        return thresholds.astype("int32"), falling.astype("int32")
    sign = rng.choice([-1.0, 1.0], size)
    count = epilogue.codes.count if epilogue.codes else 256
    mul = sign * rng.uniform(1, 6, size) * count / max(1, high - low)
    add = rng.uniform(-count / 2, count / 2, size)
    return mul.astype("float32"), add.astype("float32")


def expected(work: ConvWork, x: Any, w: Any, params: tuple[Any, ...]) -> Any:
    """What ``spec`` says."""
    acc = spec.conv2d(
        x, w, x_zero=work.x_zero, w_zero=work.w_zero, strides=work.strides, padding=work.padding,
        dilation=work.dilation, groups=work.groups,
    )  # fmt: skip
    epilogue = work.epilogue
    if epilogue.kind == "none":
        return acc
    if epilogue.kind == "affine":
        return spec.affine(acc, *params)
    if epilogue.kind == "requantize":
        codes = spec.requantize(acc, *params, epilogue.codes, epilogue.zero, epilogue.rounding)
    else:
        codes = spec.threshold(acc, *params, epilogue.codes)
    return spec.pack_planes(codes, epilogue.codes) if epilogue.pack else codes


def kernel_params(work: ConvWork, params: tuple[Any, ...]) -> tuple[Any, ...]:
    """Parameters as kernels take them: thresholds [count - 1, O]."""
    if work.epilogue.kind == "threshold":
        return np.ascontiguousarray(params[0].T), params[1]
    return params


def compile_kernel(
    work: ConvWork, family: Any, target: Target, w: Any, tvm_target: Any = None, device: Any = None
) -> tuple[Any, list[Any], str]:
    """Compile a kernel for this machine; returns the module, packed weights and constants.

    Tensors are on ``device``, or on the CPU for None.
    """
    refused = family.supports(work, target)
    assert refused is None, str(refused)
    kernel = family.build(work, target, w)
    functions = tvm.IRModule({kernel.name: kernel.func, "prepare": kernel.prepare})
    module = tvm.compile(functions, tvm_target or target.tvm())
    packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype), device)
    module["prepare"](tvm.runtime.tensor(spec.pack_stream(w, work.w), device), packed)
    constants = [tvm.runtime.tensor(c, device) for c in kernel.constants]
    return module, [packed, *constants], kernel.name


def kernel_arguments(
    work: ConvWork, x: Any, static: list[Any], params: tuple[Any, ...], device: Any = None
) -> list[Any]:
    """All arguments of a kernel, the result last."""
    if work.x_planes:
        x = spec.pack_planes(x, work.x)
    given = [
        tvm.runtime.tensor(np.ascontiguousarray(p), device) for p in kernel_params(work, params)
    ]
    out = tvm.runtime.tensor(np.zeros(*output_type(work)), device)
    return [tvm.runtime.tensor(x, device), *static, *given, out]


def run_kernel(
    work: ConvWork, family: Any, target: Target, x: Any, w: Any, params: tuple[Any, ...] = ()
) -> Any:
    """Build, compile, prepare the weights and run; returns the result as numpy."""
    module, static, name = compile_kernel(work, family, target, w)
    args = kernel_arguments(work, x, static, params)
    module[name](*args)
    return args[-1].numpy()


def check(
    work: ConvWork, family: Any, target: Target, seed: int = 0, run: Callable[..., Any] = run_kernel
) -> None:
    """Assert that a kernel gives the integers (and floats) of ``spec``; ``run`` runs it."""
    x, w = random_data(work, seed)
    params = random_params(work, seed)
    found = run(work, family, target, x, w, params)
    np.testing.assert_array_equal(found, expected(work, x, w, params), err_msg=family.name)


def runs_here(target: Target) -> bool:
    """Whether this machine has the instructions of an x86 target."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    needed = {"avx2"}
    if "avx512" in target.features:
        needed |= {"avx512bw", "avx512vl", "avx512_vnni", "avx512_vpopcntdq", "avx512_bitalg"}
    return platform.machine() == target.arch and needed <= flags


HOST_TARGETS = [
    pytest.param(
        target,
        id=target.name,
        marks=pytest.mark.skipif(not runs_here(target), reason=f"not a {target.name} machine"),
    )
    for target in (AVX512_VNNI, AVX2)
]


def families_for(work: ConvWork, target: Target) -> list[Any]:
    """All families that do the work on the target."""
    return [family for family, _ in candidates(work, target)[0]]
