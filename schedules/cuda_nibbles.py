"""Words of eight codes of 4 bits, which tensor cores of some chips multiply as such.

Activations are brought into words by a kernel of their own.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import te, tirx
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import ir, stages
from tvm_qnn.schedules.cuda_operands import Fitted, Words
from tvm_qnn.schedules.plan import ceil_div
from tvm_qnn.schedules.prepare import weight_digit

_COUNT = 8


class Nibbles(Fitted):
    """4 bits: signed or unsigned ones of activations, signed ones of weights."""

    granule = _COUNT
    types = (("u4", 0, 15), ("s4", -8, 7))
    width, instead = "4 bits", "others take bytes"

    def stages(self, work: ConvWork) -> int:
        """See :class:`Operands`."""
        return 1

    def words(self, work: ConvWork, x: Any, fill: int) -> Words:
        """See :class:`Operands`."""
        digits = self.digits(work)[0]
        shape = (work.batch, work.height, work.width, ceil_div(work.in_channels, _COUNT))
        packed = ir.alloc(shape, "uint32")
        with ir.stage("nibbles", shape) as (n, h, w, word):
            found: Any = tirx.const(0, "uint32")
            for i in range(_COUNT):
                c = word * _COUNT + i
                read = x[n, h, w, tirx.min(c, work.in_channels - 1)]
                low = tirx.bitwise_and(stages.digit_of(read, digits, "int32"), 15)
                low = tirx.Select(c < work.in_channels, low, tirx.const(0, "int32"))
                found = found | (low.astype("uint32") << tirx.const(4 * i, "uint32"))
            ir.store(packed, found, n, h, w, word)

        def value(n: Any, h: Any, w: Any, _: Any, c: Any) -> Any:
            return stages.digit_of(x[n, h, w, c], digits, "int32")

        outside = tirx.const(fill % 16 * 0x11111111, "uint32")
        return Words(packed, lambda _: outside, fill, value, (work.in_channels,))

    def weight(
        self, work: ConvWork, indices: Any, part: Any, o: Any, i: Any, j: Any, word: Any
    ) -> Any:
        """See :class:`Operands`."""
        k, digits = te.reduce_axis((0, _COUNT), "nibble"), self.digits(work)[1]
        digit = weight_digit(indices, digits, "int32", o, i, j, word * _COUNT + k)
        return te.sum((digit & 15).astype("uint32") << (k * 4).astype("uint32"), axis=k)
