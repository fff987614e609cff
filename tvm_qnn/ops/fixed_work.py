"""What a ``qnn.fixed_*`` operator has to do: multiplications, weights, and their bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tvm_qnn._tvm import tvm
from tvm_qnn.ops.dialect import attrs_of, is_op, shape_of
from tvm_qnn.ops.fixed import format_of

_FLOAT_BITS = 32


@dataclass(frozen=True)
class FixedWork:
    """The work of one operator.

    Attributes:
        macs: products that are summed (for the Hamming similarity: comparisons of words).
        activation_bits: of the codes that it computes with; 0 where it has none.
        weight_bits: of a stored weight, 32 for float ones, 0 without weights.
        weights: the constant weights, or None.
    """

    macs: int
    activation_bits: int
    weight_bits: int
    weights: NDArray[Any] | None = field(repr=False)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are stored, a dense stream."""
        return 0 if self.weights is None else -(-self.weights.size * self.weight_bits // 8)


def fixed_work(call: Any) -> FixedWork:
    """Read the work off a ``qnn.fixed_*`` call."""
    attrs = attrs_of(call)
    bits = format_of(attrs).bits if "integer" in attrs else 0
    with_weights = is_op(call, "qnn.fixed_bag", "qnn.fixed_dense", "qnn.fixed_output")
    constant = with_weights and isinstance(call.args[0], tvm.ir.GenericConst)
    macs = 0
    if is_op(call, "qnn.fixed_dense", "qnn.fixed_output"):
        macs = math.prod(shape_of(call)) * shape_of(call.args[0])[1]
    elif is_op(call, "qnn.fixed_similarity", "qnn.fixed_hamming"):
        macs = math.prod(shape_of(call.args[0]))
    elif is_op(call, "qnn.fixed_read"):
        macs = math.prod(shape_of(call.args[1]))
    weight_bits = _FLOAT_BITS if is_op(call, "qnn.fixed_output") else bits
    weights = call.args[0].value.numpy() if constant else None
    return FixedWork(macs, bits, weight_bits if constant else 0, weights)
