"""Kernels of memory networks neither read nor write behind their tensors: unreadable pages follow.

A kernel that does is killed by a signal.
"""

import ctypes
import mmap
import sys

import numpy as np
import pytest

from benchmarks.memory_cases import Size, cases
from tests.schedules.helpers import HOST_TARGETS
from tvm_qnn._tvm import tvm
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.spec import FixedPoint

ALIGNMENT = 64
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")


def fenced(array, keep):
    """A copy that ends where an unreadable page begins, if it starts aligned then."""
    if array.nbytes % ALIGNMENT:
        return tvm.runtime.tensor(array)
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, size + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    no_access = 0
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    address = ctypes.c_void_p(start + size)
    assert protect(address, ctypes.c_size_t(mmap.PAGESIZE), no_access) == 0
    keep.append(pages)
    copy = np.frombuffer(pages, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return tvm.runtime.from_dlpack(copy)


@pytest.mark.parametrize("target", HOST_TARGETS)
@pytest.mark.parametrize("size", [Size(16, 12, 60), Size(16, 20, 4), Size(64, 1, 65)], ids=str)
def test_nothing_behind_a_tensor_is_touched(target, size):
    size = Size(size.batch, size.slots, size.width, words=4, vocabulary=16, answers=16)
    found = cases(np.random.default_rng(0), FixedPoint(2, 5), size)
    functions = {f"k{i}": build_memory(c.work, target, f"k{i}") for i, c in enumerate(found)}
    module = tvm.compile(tvm.IRModule(functions), target.tvm())
    keep = []
    for i, case in enumerate(found):
        arrays = [*case.arguments, np.ones_like(case.expected[0])]
        tensors = [fenced(a, keep) for a in arrays]
        module[f"k{i}"](*tensors)
        np.testing.assert_array_equal(tensors[-1].numpy(), case.expected[0], err_msg=case.name)
    assert len(keep) > len(found)
