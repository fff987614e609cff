"""NVIDIA GPUs, on a host with an x86-64 processor.

Which tensor core instructions a chip has was read off the code that nvcc 13.0 makes for it. Binary
ones with XOR are emulated from sm_90 on, so kernels use AND only, which chips after sm_90 emulate,
too; int4 ones are emulated from sm_90 on.

Rates are multiply-accumulates of one multiprocessor in a cycle: popcounts and dp4a from the
throughput table of the CUDA programming guide, tensor cores from the peak rates of the A100
whitepaper (int8 624, int4 1248, int1 4992 TOPS). Those of other chips are guesses from their
published int8 rate; no chip was measured. Memory is that of A100 (1,555 GB/s), RTX 3090 (936),
RTX 4090 (1,008), H100 (3,350) and T4 (320).
"""

import ctypes
from functools import cache

from tvm_qnn.targets.record import Gpu, Rates, Target

_CAPABILITY = (75, 76)
"""Attributes of a device of the CUDA driver: major and minor number of its compute capability."""
_GUIDE = "throughput tables"


def _target(name: str, description: str, gpu: Gpu, rates: Rates) -> Target:
    return Target(
        name=name,
        description=description,
        triple="x86_64-linux-gnu",
        cpu="x86-64",
        arch="x86_64",
        features=frozenset(),
        rates=rates,
        gpu=gpu,
    )


SM75 = _target(
    "cuda-sm75",
    "NVIDIA Turing (T4, RTX 20)",
    Gpu("sm_75", tensor=frozenset(), processors=40, bandwidth=200),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE),
)

SM80 = _target(
    "cuda-sm80",
    "NVIDIA Ampere for servers (A100, A30)",
    Gpu("sm_80", tensor=frozenset({"s8", "s4", "b1"}), processors=108, bandwidth=1100),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE, tensor8=2048, tensor1=16384),
)

SM86 = _target(
    "cuda-sm86",
    "NVIDIA Ampere (RTX 30, A10, A40)",
    Gpu("sm_86", tensor=frozenset({"s8", "s4", "b1"}), processors=84, bandwidth=550),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE, tensor8=1024, tensor1=8192),
)

SM89 = _target(
    "cuda-sm89",
    "NVIDIA Ada (RTX 40, L4, L40)",
    Gpu("sm_89", tensor=frozenset({"s8", "s4", "b1"}), processors=142, bandwidth=400),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE, tensor8=1024, tensor1=8192),
)

SM90 = _target(
    "cuda-sm90",
    "NVIDIA Hopper (H100, H200)",
    Gpu("sm_90", tensor=frozenset({"s8", "b1"}), processors=132, bandwidth=1900),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE, tensor8=2048, tensor1=2048),
)

CUDA = _target(
    "cuda",
    "any NVIDIA GPU from Turing on, without tensor cores",
    Gpu("sm_75", tensor=frozenset(), processors=40, bandwidth=200, portable=True),
    Rates(dot=256, bitserial=512, reference=64, source=_GUIDE),
)

ALL = (CUDA, SM75, SM80, SM86, SM89, SM90)


def here() -> Target | None:
    """Return the target of the first GPU of this machine, ``cuda`` if none is made for the chip.

    None where the driver finds no GPU.
    """
    capability = _capability()
    if capability is None:
        return None
    arch = f"sm_{capability[0]}{capability[1]}"
    own = (t for t in ALL if t.gpu is not None and not t.gpu.portable and t.gpu.arch == arch)
    return next(own, CUDA)


@cache
def _capability() -> tuple[int, int] | None:
    """Ask the driver for the compute capability of the first GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    found = []
    for attribute in _CAPABILITY:
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return found[0], found[1]
