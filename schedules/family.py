"""What a kernel family is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.targets.record import Target


@dataclass(frozen=True)
class Refusal:
    """Why a family, or the compiler, does not take an operator, and what would help."""

    node: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


@dataclass(frozen=True)
class Kernel:
    """A kernel for one piece of work on one target.

    Attributes:
        name: such as ``qconv2d_w2a2_bitserial``.
        func: scheduled PrimFunc ``(x, packed weights, *constants, *epilogue parameters, out)``, for
            codebook weights with the codebook float32 [M, rows] before the epilogue parameters.
            x is codes NHWC or bit planes as the work says; the epilogue parameters are none, (mul,
            add) float32 [O], or thresholds int32 [count - 1, O] (transposed, so that channels are
            neighbours) and falling int32 [O]; out is NHWC int32, float32 or codes, or bit planes.
        prepare: scheduled PrimFunc ``(stream, packed weights)`` that runs once when an artifact is
            loaded: from the dense bit stream of ``spec.pack_stream`` (codes OHWI) to the layout
            that ``func`` reads.
        packed_shape: shape of the packed weights.
        packed_dtype: dtype of the packed weights.
        constants: static integer arguments (sums of weights that correct for zero points).
    """

    name: str
    func: Any
    prepare: Any
    packed_shape: tuple[int, ...]
    packed_dtype: str
    constants: tuple[NDArray[np.int32], ...] = ()


W = TypeVar("W", contravariant=True)
"""What a family computes: ``ConvWork`` or ``CodebookWork``."""


class Family(Protocol[W]):
    """A way to compute convolutions; one file in ``schedules/`` and one entry in its list."""

    name: str

    def __hash__(self) -> int: ...

    def supports(self, work: W, target: Target) -> Refusal | None:
        """Return None if the family can do the work on the target, else the reason."""

    def cycles(self, work: W, target: Target) -> float:
        """Return the analytic cost in cycles of one core."""

    def compute(self, work: W, target: Target) -> Any:
        """Return the unscheduled PrimFunc ``main``, what a design space starts from."""

    def schedule(self, sch: Any, work: W, target: Target) -> None:
        """Schedule :meth:`compute`: the design space of tuning, with good default decisions."""

    def build(
        self, work: W, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """Return the kernel for weight codes OHWI.

        Args:
            work: what to compute.
            target: for which device.
            weights: codes OHWI; only static sums are taken from them, the kernel gets them packed.
            trace: tuned decisions, as MetaSchedule writes them, instead of the default ones.
        """
