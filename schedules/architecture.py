"""A family whose kernels are written in parts: for an architecture, for a kind of convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.family import Kernel, Refusal
from tvm_qnn.schedules.tiled import TiledFamily
from tvm_qnn.targets.record import Target


class ByArchitecture:
    """Hands each call to the first part that supports the work on the target's architecture.

    Args:
        name: of the family.
        parts: for each ``Target.processor`` the kernels for it.

    Attributes:
        processors: those with parts.
    """

    def __init__(self, name: str, parts: Mapping[str, Sequence[TiledFamily]]) -> None:
        self.name = name
        self._parts = dict(parts)
        self.processors = frozenset(parts)

    def supports(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        refusals = [part.supports(work, target) for part in self._parts.get(target.processor, ())]
        if not refusals:
            return Refusal(self.name, f"no kernels for {target.processor}")
        return None if None in refusals else refusals[0]

    def part(self, work: ConvWork, target: Target) -> TiledFamily:
        """Return the part that does the work.

        Raises:
            ValueError: if none does.
        """
        for part in self._parts.get(target.processor, ()):
            if part.supports(work, target) is None:
                return part
        raise ValueError(str(self.supports(work, target)))

    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self.part(work, target).cycles(work, target)

    def compute(self, work: ConvWork, target: Target) -> Any:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self.part(work, target).compute(work, target)

    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        self.part(work, target).schedule(sch, work, target)

    def build(
        self, work: ConvWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        return self.part(work, target).build(work, target, weights, trace)
