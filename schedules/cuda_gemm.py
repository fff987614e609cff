"""Convolutions on a GPU as products of an image and weights, in words: what all kernels share."""

from __future__ import annotations

import math
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import cuda, ir
from tvm_qnn.schedules.algebra import Correction, Digits
from tvm_qnn.schedules.cuda_operands import Operands, Words
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.schedules.plan import Plan, ceil_div
from tvm_qnn.schedules.tiled import TiledFamily
from tvm_qnn.targets.record import Target

LAUNCH, WAIT = 3000, 600
"""Cycles from one kernel to the next, and until memory answers, estimates."""
_RESIDENT = 4
"""Thread blocks that a multiprocessor runs by turns, an estimate."""


class CudaFamily(TiledFamily):
    """A family for one group of channels.

    Args:
        name: of the family.
        operands: what words are.
    """

    depth = 1
    """Words of the reduction that belong together."""
    copies_ahead = False
    """Whether schedules copy operands while they multiply the ones before."""
    together: int
    """Words of the reduction that are copied at once, at most, without tuning."""

    def __init__(self, name: str, operands: Operands) -> None:
        self.name = name
        self.operands = operands

    def refuse(self, work: ConvWork, target: Target) -> Refusal | None:
        """See :class:`TiledFamily`."""
        if work.groups != 1:
            reason = f"{work.groups} channel groups leave few channels to sum over"
            return Refusal(self.name, reason, "reference takes them")
        found = self.operands.refuse(work)
        return None if found is None else Refusal(self.name, *found)

    def digits(self, work: ConvWork, target: Target) -> tuple[Digits, Digits]:
        """See :class:`TiledFamily`."""
        return self.operands.digits(work)

    def estimate(self, work: ConvWork, target: Target, tile: tuple[int, int], rate: float) -> float:
        """Return the cycles of a kernel whose thread blocks have the sums of a tile.

        Args:
            work: what to compute.
            target: the GPU.
            tile: rows and columns of a thread block, bit planes counted.
            rate: products of one multiprocessor in a cycle.
        """
        assert target.gpu is not None
        x, w = self.operands.parts(work)
        blocks = ceil_div(cuda.rows_of(work) * x, tile[0]) * ceil_div(
            work.out_channels * w, tile[1]
        )
        steps, processors = self.steps(work), target.gpu.processors
        products = tile[0] * tile[1] * steps * self.operands.granule
        computed = ceil_div(blocks, processors) * products / rate
        waited = ceil_div(blocks, processors * _RESIDENT) * ceil_div(steps, self.together) * WAIT
        read = steps * work.out_channels * w * 4 / self.sets(work) / target.gpu.bandwidth
        staged = self.operands.stages(work)
        return max(computed, waited, read) + LAUNCH * (1 + staged)

    def sets(self, work: ConvWork) -> int:
        """Return how many words of weights a stored word holds."""
        return 1

    def words(self, work: ConvWork) -> int:
        """Return the words of the channels of one tap."""
        return ceil_div(work.in_channels, self.operands.granule)

    def steps(self, work: ConvWork) -> int:
        """Return the words of an image row."""
        words = work.kernel[0] * work.kernel[1] * self.words(work)
        return ceil_div(words, self.depth) * self.depth

    def group(self, work: ConvWork) -> int:
        """Return how many words of a tap a thread copies at once."""
        return math.gcd(cuda.VECTOR, self.words(work))

    def place(self, work: ConvWork, step: Any, group: int = 1) -> tuple[Any, Any, Any]:
        """Return the kernel row, the kernel column and the word of a step, or their groups."""
        words = self.words(work) // group
        tap, word = tirx.floordiv(step, words), tirx.floormod(step, words)
        taps = work.kernel[0] * work.kernel[1]
        if self.steps(work) != taps * self.words(work):
            # Steps beyond the last tap meet weights of 0.
            tap = tirx.min(tap, taps - 1)
        return tirx.floordiv(tap, work.kernel[1]), tirx.floormod(tap, work.kernel[1]), word

    def weight_word(self, work: ConvWork, indices: Any, part: Any, o: Any, step: Any) -> Any:
        """Return a word of weights as a tensor expression."""
        i, j, word = self.place(work, step)
        beyond = self.steps(work) - work.kernel[0] * work.kernel[1] * self.words(work)
        if beyond:
            # No weight has a channel of that number.
            last = self.steps(work) - beyond
            word = tirx.Select(step < last, word, tirx.const(self.words(work), "int32"))
        return self.operands.weight(work, indices, part, o, i, j, word)

    def emit_image(self, work: ConvWork, plan: Plan, words: Words) -> Any:
        """Write the block ``image``; returns the buffer [rows * parts, steps]."""
        parts, group = self.operands.parts(work)[0], self.group(work)
        shape = (plan.width_stored * parts, self.steps(work))
        image = ir.named("image", ir.alloc(shape, "uint32", scope="shared"))
        with ir.stage("image", (shape[0], shape[1] // group)) as (row, g):
            i, j, first = self.place(work, g, group)
            pixel, part = tirx.floordiv(row, parts), tirx.floormod(row, parts)
            place, inside = cuda.source(work, plan, pixel, i, j)
            if self.copies_ahead and inside is not None and words.fill == 0:
                near = (*words.place(cuda.nearest(work, place), part), first * group)
                cuda.copy_or_clear(words.buffer, near, image, (row, g * group), group, inside)
            else:
                read = words.read(place, part, first * group, group)
                value = cuda.inside_or(inside, read, ir.splat(words.outside(part), group))
                ir.store(image, value, row, ir.lanes_at(g * group, group))
        return image

    def emit_window_sums(
        self, work: ConvWork, plan: Plan, words: Words, correction: Correction
    ) -> Any:
        """Write the sums of activations under the kernel where ``correction`` needs them."""
        if correction.slope is None:
            return None
        outside = correction.fill * work.in_channels
        return cuda.sum_windows(work, plan, words.pixel_sum, words.extents, outside)
