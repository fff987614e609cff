"""Schedules for CUDA keep what a kernel computes, with default decisions and with random ones."""

import re

import numpy as np
import pytest

from tests.gpu.emulation import check_emulated
from tests.gpu.sequential import sequential, without_intrinsics
from tests.gpu.test_kernels import CASES, SM80
from tests.schedules.helpers import check, kernel_arguments
from tvm_qnn import spec, targets
from tvm_qnn._tvm import s_tir, tvm
from tvm_qnn.schedules import family, tiling

# LLVM 22 gives other sums for some of these loops, optimized for AVX2 and later: long unrolled sums
# of products of bytes taken out of words. The same loops are right on plain x86-64.
PLAIN = {"kind": "llvm", "mtriple": targets.host().triple, "opt-level": 0}


def run_sequential(work, family, target, x, w, params):
    """Run a scheduled kernel, and the one that prepares its weights, as CPU programs."""
    with without_intrinsics():
        kernel = family.build(work, target, w)
    functions = {kernel.name: sequential(kernel.func), "prepare": sequential(kernel.prepare)}
    module = tvm.compile(tvm.IRModule(functions), tvm.target.Target(PLAIN))
    packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype))
    module["prepare"](tvm.runtime.tensor(spec.pack_stream(w, work.w)), packed)
    static = [packed, *map(tvm.runtime.tensor, kernel.constants)]
    args = kernel_arguments(work, x, static, params)
    module[kernel.name](*args)
    return args[-1].numpy()


@pytest.mark.parametrize("key", list(CASES))
def test_default_decisions(key):
    work, names = CASES[key]
    for name in names:
        check(work, family(name), SM80, run=run_sequential)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "key",
    [
        "bytes",
        "planes",
        "many rows",
        "a row of bits",
        "rows of two bits",
        "four bits of weights",
        "depthwise, tiles wider than rows",
        "depthwise, tiles that fit",
        "depthwise, zeros of channels",
        "depthwise to planes",
    ],
)
def test_random_decisions(key, seed, monkeypatch):
    def sample(sch, loop, default, largest):
        factors = sch.sample_perfect_tile(loop, n=len(default), max_innermost_factor=largest)
        return list(sch.split(loop, factors)), list(factors)

    def seeded(func):
        return s_tir.Schedule(tvm.IRModule({"main": func}), seed=seed)

    monkeypatch.setattr(tiling, "sample", sample)
    monkeypatch.setattr(tiling, "schedule_of", seeded)
    work, names = CASES[key]
    for name in (n for n in names if n != "reference"):
        check(work, family(name), SM80, run=run_sequential)
        try:
            check_emulated(work, family(name), SM80)
        except RuntimeError as error:
            # All that a tile may be is too large.
            if not re.search("bytes of shared memory, a block has|threads in a block", str(error)):
                raise
