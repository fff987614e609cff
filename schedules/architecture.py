"""A family whose kernels are written once for each processor architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.family import Family, Kernel, Refusal
from tvm_qnn.targets.record import Target


class ByArchitecture:
    """Hands each call to the family of the target's architecture.

    Args:
        name: of the family.
        families: for each ``Target.arch`` the family that has kernels for it.
    """

    def __init__(self, name: str, families: Mapping[str, Family]) -> None:
        self.name = name
        self._families = dict(families)

    def supports(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        if target.arch not in self._families:
            return Refusal(self.name, f"no kernels for {target.arch}")
        return self._families[target.arch].supports(work, target)

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self._families[target.arch].cycles(work, target)

    def compute(self, work: ConvWork, target: Target) -> Any:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self._families[target.arch].compute(work, target)

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        self._families[target.arch].schedule(sch, work, target)

    def build(
        self, work: ConvWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self._families[target.arch].build(work, target, weights, trace)
