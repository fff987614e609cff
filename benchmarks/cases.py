"""The layers that kernels are timed and tuned on, in several bits."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_qnn import targets
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import candidates, family
from tvm_qnn.schedules.database import Database
from tvm_qnn.schedules.records import Record
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

MISJUDGED = 4.0
"""A family whose analytic cost is so many times another's may still be the faster one."""


@dataclass(frozen=True)
class Case:
    """A layer, and the kernels to time for it."""

    name: str
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int = 3
    strides: int = 1
    groups: int = 1
    variants: tuple[str, ...] = ("w1a1", "w1a2", "w2a2", "w8a8")


RESNET18 = (
    Case("conv3x3 64ch 56x56", 56, 56, 64, 64),
    Case("conv3x3 128ch 28x28", 28, 28, 128, 128),
    Case("conv3x3 256ch 14x14", 14, 14, 256, 256),
    Case("conv3x3 512ch 7x7", 7, 7, 512, 512),
)
"""The 3x3 convolutions of ResNet-18 that keep their size."""

CASES = (
    Case("conv3x3/2 3-32ch 224x224", 224, 224, 3, 32, strides=2, variants=("w8a8",)),
    *RESNET18,
    Case("conv3x3/2 64-128ch 56x56", 56, 56, 64, 128, strides=2),
    Case("conv1x1 256-64ch 56x56", 56, 56, 256, 64, kernel=1),
    Case("conv1x1 128-256ch 28x28", 28, 28, 128, 256, kernel=1),
    Case("conv1x1 512ch 14x14", 14, 14, 512, 512, kernel=1),
    Case("dense 1024-1024", 1, 1, 1024, 1024, kernel=1),
    Case("dense 64x 1024-1024", 1, 64, 1024, 1024, kernel=1),
    Case("depthwise3x3 64ch 112x112", 112, 112, 64, 64, groups=64, variants=("w8a8",)),
    Case("depthwise3x3 256ch 28x28", 28, 28, 256, 256, groups=256, variants=("w8a8",)),
    Case("depthwise3x3 512ch 14x14", 14, 14, 512, 512, groups=512, variants=("w8a8",)),
)

BITS = {
    "w1a1": (Codes(-1, 1, 2), Codes(0, 1), "bitserial"),
    "w1a2": (Codes(-1, 1, 2), Codes(0, 3), "bitserial"),
    "w2a2": (Codes(-2, 1), Codes(0, 3), "bitserial"),
    "w8a8": (Codes(-127, 127), Codes(0, 255), "dot"),
}
"""Weights, activations and, where nothing is tuned, the kernel family."""


@dataclass(frozen=True)
class Chosen:
    """The kernel for a layer.

    Attributes:
        work: what it computes.
        family: name of the kernel family.
        record: of tuning; None where there is none.
    """

    work: ConvWork
    family: str
    record: Record | None = None

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.work.name(self.family)

    @property
    def schedule(self) -> str:
        """``untuned``, or what tuning found to be best: ``default`` or ``tuned``."""
        if self.record is None:
            return "untuned"
        return "default" if self.record.trace is None else "tuned"


def work_of(case: Case, variant: str, method: str) -> ConvWork:
    """Return the work of a layer in some bits, with bit planes where a family reads them."""
    w, x, _ = BITS[variant]
    planes = method == "bitserial"
    pad = case.kernel // 2
    return ConvWork(
        1, case.height, case.width, case.in_channels, case.out_channels,
        (case.kernel, case.kernel), x, w, (case.strides, case.strides), (pad, pad, pad, pad),
        groups=case.groups, x_planes=planes,
        epilogue=Epilogue("requantize", x, pack=planes),
    )  # fmt: skip


def methods(work: ConvWork, target: Target) -> list[str]:
    """Return the families that may be the fastest for some work, by their analytic cost."""
    possible, _ = candidates(work, target)
    return [able.name for able, cycles in possible if cycles <= MISJUDGED * possible[0][1]]


def choose(case: Case, variant: str, target: Target, tuned: Database) -> Chosen:
    """Return the fastest kernel of a database, or the usual one where it has none."""
    found = []
    for method in methods(work_of(case, variant, "dot"), target):
        work = work_of(case, variant, method)
        record = tuned.find(family(method), work, target)
        if record is not None:
            found.append(Chosen(work, method, record))
    if found:
        return min(found, key=lambda chosen: chosen.record.cost if chosen.record else 0.0)
    usual = BITS[variant][2]
    return Chosen(work_of(case, variant, usual), usual)


def host_target() -> Target:
    """The fastest x86 target that this machine runs."""
    return AVX512_VNNI if AVX512_VNNI.features <= targets.host().features else AVX2
