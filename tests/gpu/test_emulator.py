"""The emulator finds the faults that a GPU would have: each is put into a kernel that is right."""

import ctypes
import re

import numpy as np
import pytest

from tests.gpu.emulation import run_emulated
from tests.schedules.helpers import expected, random_data, random_params
from tvm_qnn import targets
from tvm_qnn.gpu.emulator import compile_kernels
from tvm_qnn.gpu.kernels import Kernels
from tvm_qnn.gpu.source import UnknownInstructionError, rewrite
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import family
from tvm_qnn.spec import Codes

SM80 = targets.get("cuda-sm80")
BYTES = ConvWork(1, 1, 70, 512, 64, (1, 1), Codes(0, 255), Codes(-128, 127))
BITS = ConvWork(1, 1, 70, 2048, 64, (1, 1), Codes(0, 1), Codes(0, 1), x_planes=True)
BARRIER = "__syncthreads();"


def outcome(work, name, edit):
    """Whether an edited kernel still gives the right integers, and the error it ends with."""
    x, w = random_data(work)
    params = random_params(work)
    try:
        found = run_emulated(work, family(name), SM80, x, w, params, edit)
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]
    return bool((found == expected(work, x, w, params)).all())


def without(text, number):
    """Edit that leaves out one occurrence of a text."""

    def edit(source):
        places = [found.start() for found in re.finditer(re.escape(text), source)]
        return source[: places[number]] + source[places[number] + len(text) :]

    return edit


@pytest.mark.parametrize(("work", "name"), [(BYTES, "mma"), (BYTES, "dot"), (BITS, "bmma")])
def test_a_dropped_barrier_changes_results(work, name):
    assert outcome(work, name, str) is True
    assert outcome(work, name, without(BARRIER, 0)) is False
    assert outcome(work, name, without(BARRIER, 1)) is False


def test_a_wrong_fragment_changes_results():
    def swap_halves(source):
        register = r"(weights_shared_warp_ptr \+ [^\]]*?\)\)\)\[)([01])(\])"
        return re.sub(register, lambda m: m[1] + str(1 - int(m[2])) + m[3], source)

    assert swap_halves("weights_shared_warp_ptr + (3)))[0]") != "weights_shared_warp_ptr + (3)))[0]"
    assert outcome(BYTES, "mma", swap_halves) is False


def test_misaligned_vectors_are_errors():
    def shift(source):
        return re.sub(r"\(uint4\*\)\(weights_ptr \+ ", "(uint4*)(weights_ptr + 1 + ", source)

    assert "misaligned address" in outcome(BYTES, "dot", shift)


def test_barriers_that_some_threads_miss_are_errors():
    def part(source):
        return source.replace(BARRIER, f"if (threadIdx.x < 3) {{ {BARRIER} }}", 1)

    assert "threads part: some are at the barrier of line" in outcome(BYTES, "dot", part)


def test_too_much_shared_memory_is_an_error():
    def swell(source):
        return re.sub(r"(image_ptr)\[\d+\]", r"\1[20000]", source, count=1)

    assert "bytes of shared memory, a block has 49152" in outcome(BYTES, "mma", swell)


COPY = """
extern "C" __global__ void k(uint* to, uint* from) {
  __shared__ uint piece[32];
  unsigned at = __cvta_generic_to_shared(piece + threadIdx.x);
  __asm__ __volatile__("cp.async.ca.shared.global [%0], [%1], %2;" :: "r"(at),
    "l"(from + threadIdx.x), "n"(4));
  __asm__ __volatile__("cp.async.commit_group;");
  WAIT
  __syncthreads();
  to[threadIdx.x] = piece[31 - threadIdx.x];
}
"""


@pytest.mark.parametrize("waits", [True, False])
def test_asynchronous_copies_arrive_when_they_are_waited_for(waits):
    wait = '__asm__ __volatile__("cp.async.wait_group 0;");' if waits else ""
    source = "#define uint unsigned\n" + COPY.replace("WAIT", wait)
    kernels = Kernels(source, {"k": (["handle", "handle"], ["threadIdx.x"])})
    given, found = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (found, given)]
    compile_kernels(kernels, 1024)["k"](*pointers, 32)
    assert (found == given[::-1]).all() == waits


def test_unknown_instructions_are_named():
    with pytest.raises(UnknownInstructionError, match="wgmma"):
        rewrite('void f() { asm volatile("wgmma.fence.sync.aligned;"); }')
