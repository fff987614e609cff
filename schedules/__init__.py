"""Kernel families: exact integer convolutions and matrix products."""

from __future__ import annotations

from typing import Any

from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.schedules import dot_x86
from tvm_qnn.schedules.architecture import ByArchitecture
from tvm_qnn.schedules.arm_bitserial import ArmBitSerial
from tvm_qnn.schedules.arm_depthwise import ArmDepthwise
from tvm_qnn.schedules.arm_dot import ArmDot
from tvm_qnn.schedules.bitserial import BitSerial
from tvm_qnn.schedules.codebook import Indicators
from tvm_qnn.schedules.codebook_taps import Taps
from tvm_qnn.schedules.cuda_cores import CudaCores
from tvm_qnn.schedules.cuda_depthwise import CudaDepthwise
from tvm_qnn.schedules.cuda_gemv import CudaGemv
from tvm_qnn.schedules.cuda_nibbles import Nibbles
from tvm_qnn.schedules.cuda_operands import Bits, Bytes
from tvm_qnn.schedules.cuda_tensor import CudaTensor
from tvm_qnn.schedules.depthwise import Depthwise
from tvm_qnn.schedules.dot import Dot
from tvm_qnn.schedules.family import Family, Kernel, Refusal
from tvm_qnn.schedules.reference import Reference
from tvm_qnn.targets.record import Target

__all__ = [
    "CODEBOOK_FAMILIES", "FAMILIES", "READS_PLANES", "Family", "Kernel", "Refusal", "candidates",
    "families", "family",
]  # fmt: skip

_INTEGER = (
    ByArchitecture("gemv", {"cuda": (CudaGemv(),)}),
    ByArchitecture(
        "bitserial",
        {
            "x86_64": (BitSerial(),),
            "aarch64": (ArmBitSerial(),),
            "cuda": (CudaCores("bitserial", Bits()),),
        },
    ),
    ByArchitecture(
        "dot",
        {
            "x86_64": (Dot(dot_x86.instructions), Depthwise()),
            "aarch64": (ArmDot(), ArmDepthwise(), Depthwise()),
            "cuda": (CudaCores("dot", Bytes()), CudaDepthwise()),
        },
    ),
    ByArchitecture("mma", {"cuda": (CudaTensor("mma", Bytes()),)}),
    ByArchitecture("unpack", {"cuda": (CudaTensor("unpack", Bytes(), unpacks=True),)}),
    ByArchitecture("mma4", {"cuda": (CudaTensor("mma4", Nibbles()),)}),
    ByArchitecture("bmma", {"cuda": (CudaTensor("bmma", Bits()),)}),
    Reference(),
)
FAMILIES: tuple[Family[ConvWork], ...] = _INTEGER
"""All families of integer convolutions; a new one is a file and an entry here."""


CODEBOOK_FAMILIES: tuple[Family[CodebookWork], ...] = (
    Taps(),
    *(Indicators(f) for f in _INTEGER),
)
"""All families of convolutions with codebook weights: by adding taps, or by indicator weights."""


_ONLY = {f.name: f.processors for f in _INTEGER if isinstance(f, ByArchitecture)}
READS_PLANES = frozenset({"bitserial", "bmma"})
"""Families that take bit planes, and pack codes themselves where they get codes."""


def families(work: ConvWork | CodebookWork, target: Target) -> list[Family[Any]]:
    """Return the families for a kind of work on a kind of processor."""
    found = CODEBOOK_FAMILIES if isinstance(work, CodebookWork) else FAMILIES
    return [f for f in found if target.processor in _ONLY.get(f.name, {target.processor})]


def family(name: str, *, codebook: bool = False) -> Family[Any]:
    """Return the family of a name, of integer convolutions or of those with codebook weights.

    Raises:
        KeyError: for an unknown name.
    """
    return {f.name: f for f in (CODEBOOK_FAMILIES if codebook else FAMILIES)}[name]


def candidates(
    work: ConvWork | CodebookWork, target: Target
) -> tuple[list[tuple[Family[Any], float]], list[Refusal]]:
    """Ask all families.

    Returns:
        the families that can do the work with their cost in cycles, the cheapest first, and why the
        others cannot.
    """
    able: list[tuple[Family[Any], float]] = []
    refusals: list[Refusal] = []
    for candidate in families(work, target):
        refused = candidate.supports(work, target)
        if refused is None:
            able.append((candidate, candidate.cycles(work, target)))
        else:
            refusals.append(refused)
    return sorted(able, key=lambda pair: pair[1]), refusals
