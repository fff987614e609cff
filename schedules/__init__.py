"""Kernel families: exact integer convolutions and matrix products for CPUs."""

from __future__ import annotations

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import dot_x86
from tvm_qnn.schedules.architecture import ByArchitecture
from tvm_qnn.schedules.arm_bitserial import ArmBitSerial
from tvm_qnn.schedules.arm_depthwise import ArmDepthwise
from tvm_qnn.schedules.arm_dot import ArmDot
from tvm_qnn.schedules.bitserial import BitSerial
from tvm_qnn.schedules.depthwise import Depthwise
from tvm_qnn.schedules.dot import Dot
from tvm_qnn.schedules.family import Family, Kernel, Refusal
from tvm_qnn.schedules.reference import Reference
from tvm_qnn.targets.record import Target

__all__ = ["FAMILIES", "Family", "Kernel", "Refusal", "candidates", "family"]

FAMILIES: tuple[Family, ...] = (
    ByArchitecture("bitserial", {"x86_64": (BitSerial(),), "aarch64": (ArmBitSerial(),)}),
    ByArchitecture(
        "dot",
        {
            "x86_64": (Dot(dot_x86.instructions), Depthwise()),
            "aarch64": (ArmDot(), ArmDepthwise(), Depthwise()),
        },
    ),
    Reference(),
)
"""All families; a new one is a file and an entry here."""


def family(name: str) -> Family:
    """Return the family of a name.

    Raises:
        KeyError: for an unknown name.
    """
    return {f.name: f for f in FAMILIES}[name]


def candidates(work: ConvWork, target: Target) -> tuple[list[tuple[Family, float]], list[Refusal]]:
    """Ask all families.

    Returns:
        the families that can do the work with their cost in cycles, the cheapest first, and why the
        others cannot.
    """
    able: list[tuple[Family, float]] = []
    refusals: list[Refusal] = []
    for candidate in FAMILIES:
        refused = candidate.supports(work, target)
        if refused is None:
            able.append((candidate, candidate.cycles(work, target)))
        else:
            refusals.append(refused)
    return sorted(able, key=lambda pair: pair[1]), refusals
