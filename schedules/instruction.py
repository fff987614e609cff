"""The record that describes a dot product instruction to the family ``dot``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules.algebra import Digits, fitting_digits, index_digits
from tvm_qnn.schedules.plan import Plan, tile_cost


@dataclass(frozen=True)
class Instruction:
    """A dot product that adds ``group`` products to each of ``lanes`` int32 accumulators.

    Attributes:
        name: of the instruction.
        lanes: accumulators in one register.
        group: products summed into each.
        x_dtype: of activation digits.
        w_dtype: of weight digits.
        x_range: activation digits that it takes.
        w_range: weight digits that it takes.
        update: from (accumulators int32 x lanes, activations int32: one group, weights: a vector
            of lanes * group digits) to the new accumulators.
        registers: vector registers that a tile may fill.
        rate: cycles to update one register.
        latency: cycles from one update of a register to the next.
        pair_limit: bound of the sum of two neighbouring products, for instructions that saturate.
    """

    name: str
    lanes: int
    group: int
    x_dtype: str
    w_dtype: str
    x_range: tuple[int, int]
    w_range: tuple[int, int]
    update: Callable[[Any, Any, Any], Any]
    registers: int
    rate: float
    latency: float
    pair_limit: int | None = None

    def digits(self, work: ConvWork) -> tuple[Digits, Digits] | None:
        """Return digits of activations and weights that the instruction multiplies exactly."""
        x = activation_digits(work, *self.x_range)
        w = fitting_digits(work.w, work.w_zero, *self.w_range)
        if x is None or w is None:
            return None
        if self.pair_limit is not None:
            products = [a * b for a in (x.lo, x.hi, 0) for b in (w.lo, w.hi)]
            if 2 * max(map(abs, products)) > self.pair_limit:
                return None
        return x, w

    def step(self, plan: Plan) -> float:
        """Return the cycles to update one register in the tile of a plan."""
        return tile_cost(plan.rows, plan.blocks, self.rate, 0.5, self.latency)


def activation_digits(work: ConvWork, lo: int, hi: int) -> Digits | None:
    """Return digits of activations in ``[lo, hi]``: the codes as they are, if that is possible."""
    if work.x.step == 1 and lo <= work.x.lo and work.x.hi <= hi:
        return index_digits(work.x, (work.x_zero,), work.x.lo)
    return fitting_digits(work.x, (work.x_zero,), lo, hi)
