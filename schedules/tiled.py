"""What the families of outer-product kernels have in common: a kernel from its inner step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.algebra import Correction, Digits, correct, intermediate_bound
from tvm_qnn.schedules.epilogue import float_exact
from tvm_qnn.schedules.family import Kernel, Refusal
from tvm_qnn.schedules.output import Sums, accumulators, constants_of, declare, emit_output
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.schedules.prepare import prepare_func
from tvm_qnn.schedules.stages import pack_word_for
from tvm_qnn.schedules.tiling import scheduled
from tvm_qnn.targets.record import Target

EPILOGUE_CYCLES = 5
"""Estimate for turning one register of accumulators into codes."""


@dataclass(frozen=True)
class Packed:
    """The layout of packed weights.

    Attributes:
        shape: their shape.
        dtype: their dtype.
        layout: from the tensor of weight indices OHWI to the body of ``te.compute`` over ``shape``.
        lanes: output channels that the last axis runs over, if it does.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: Callable[[Any], Callable[..., Any]]
    lanes: int = 1


def refusal(family: str, work: ConvWork) -> Refusal | None:
    """Refuse what no family can compute."""
    epilogue = work.epilogue
    if epilogue.pack and epilogue.codes is not None and epilogue.codes.bits > 8:
        return Refusal(family, f"bit planes of {epilogue.codes.bits}-bit codes", "at most 8 bits")
    if epilogue.pack and epilogue.kind not in ("requantize", "threshold"):
        return Refusal(family, f"bit planes of an epilogue {epilogue.kind!r}", "pack codes only")
    if not float_exact(epilogue):
        return Refusal(family, f"float32 cannot clip to codes {epilogue.codes}", "fewer bits")
    if work.w.bits > 16 or work.x.bits > 16:
        return Refusal(family, f"codes {work.x} and {work.w} of more than 16 bits")
    return None


def input_type(work: ConvWork) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype of the activations that a kernel takes."""
    pixels = (work.batch, work.height, work.width)
    if work.x_planes:
        return (*pixels, work.x.bits, ceil_div(work.in_channels, WORD)), "uint32"
    return (*pixels, work.in_channels), work.x.dtype


class TiledFamily(ABC):
    """A family whose kernels differ in digits, layout and inner step only."""

    name: str

    def supports(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        refused = refusal(self.name, work) or self.refuse(work, target)
        if refused is None and intermediate_bound(work, *self.digits(work, target)) >= 2**31:
            return Refusal(self.name, "sums of digits can leave int32", "reference takes them")
        return refused

    @abstractmethod
    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """Return why this family in particular cannot do the work, or None.

        Asked after what no family can compute is refused; :meth:`digits` exist where it is None.
        """

    @abstractmethod
    def cycles(self, work: ConvWork, target: Target) -> float:
        """See :class:`tvm_qnn.schedules.family.Family`."""

    @abstractmethod
    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """Return how activations and weights are stored."""

    @abstractmethod
    def plan(self, work: ConvWork, target: Target) -> Plan:
        """Return the loops and the default tile."""

    @abstractmethod
    def packed(self, work: ConvWork, target: Target) -> Packed:
        """Return the layout of the weights."""

    @abstractmethod
    def emit_sums(
        self, work: ConvWork, target: Target, x: Any, w: Any, correction: Correction
    ) -> tuple[Sums, Any]:
        """Write the blocks from the arguments to the sums of digit products.

        Returns:
            the sums D, and the buffer of sums S (None where ``correction`` has no slope).
        """

    @abstractmethod
    def schedule(self, sch: Any, work: ConvWork, target: Target) -> None:
        """Apply the design space with its default decisions to a schedule of :meth:`compute`."""

    def compute(self, work: ConvWork, target: Target) -> Any:
        """Return the unscheduled PrimFunc ``main``; it does not depend on weights."""
        return self._compute(work, target, np.zeros(work.weight_shape, work.w.dtype))[0]

    def _compute(
        self, work: ConvWork, target: Target, weights: NDArray[np.generic]
    ) -> tuple[Any, tuple[NDArray[np.int32], ...]]:
        plan, packed = self.plan(work, target), self.packed(work, target)
        correction = correct(work, weights, *self.digits(work, target))
        constants = constants_of(correction, plan)
        with ir.function("main") as finished:
            x = ir.argument("x", *input_type(work))
            w = ir.argument("weights", packed.shape, packed.dtype)
            args = declare(work, constants)
            sums, window_sums = self.emit_sums(work, target, x, w, correction)
            total = accumulators(work, plan, correction, args, sums, window_sums)
            emit_output(work, plan, total, args, pack_word_for(target))
        return finished(), constants

    def build(
        self, work: ConvWork, target: Target, weights: NDArray[np.generic], trace: Any = None
    ) -> Kernel:
        """See :class:`tvm_qnn.schedules.family.Family`."""
        func, constants = self._compute(work, target, weights)
        name, packed = work.name(self.name), self.packed(work, target)
        return Kernel(
            name=name,
            func=scheduled(self, func, work, target, trace, name),
            prepare=prepare_func(work, target, packed.shape, packed.layout, packed.lanes),
            packed_shape=packed.shape,
            packed_dtype=packed.dtype,
            constants=constants,
        )
