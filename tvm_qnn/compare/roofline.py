"""Where an operator lies under the roof of its device.

Of a machine that measures, the roof is the rate that the operator's kernel family reaches there
with a large convolution, and the bandwidth of a copy between arrays larger than the caches. Small
networks live in the caches, so an operator may be faster than its bytes would allow. Of a board
that is only modelled, the roof is the rate of the target record, and nothing is known of its
memory.
"""

from __future__ import annotations

from tvm_qnn.compare.rows import Cost, Machine, Operator, Roof
from tvm_qnn.targets import Target


def peak(operator: Operator, target: Target, rates: dict[str, float]) -> float:
    """Return the multiply-accumulates that the kernel could reach on one core.

    Args:
        operator: with its kernel and its bits.
        target: the device.
        rates: of ``dot`` and ``bitserial``, in a second or a cycle; the result is in the same unit.
    """
    # Codebook weights become one weight of a single bit for each of their values.
    indicators = operator.codebook or 1
    if operator.kernel.endswith("_bitserial"):
        weight_bits = indicators if operator.codebook else operator.weight_bits
        return rates["bitserial"] / (weight_bits * operator.activation_bits)
    if operator.kernel.endswith("_dot"):
        return rates["dot"] / indicators
    if operator.kernel.startswith("qmemory"):
        return rates["dot"]
    # Operations a cycle of the target record; a cycle is what its rate of dot products says.
    cycle = rates["dot"] / target.rates.dot
    if operator.kernel.endswith("_reference"):
        return target.rates.reference * cycle
    # One vector addition of 16-bit sums, or one fused multiply-add of floats, in a cycle.
    return target.vector_bytes / (2 if operator.kernel.endswith("_taps") else 4) * cycle


def roof(
    operator: Operator, cost: Cost, target: Target, machine: Machine | None, threads: int = 1
) -> Roof | None:
    """Return the place of an operator; None without multiply-accumulates.

    Args:
        operator: with its multiply-accumulates and bytes.
        cost: of the operator.
        target: the device.
        machine: that measured; None for cycles by a model.
        threads: that shared the arithmetic.
    """
    if not operator.macs:
        return None
    rates = {"dot": target.rates.dot, "bitserial": target.rates.bitserial}
    rates = rates if machine is None else {**rates, **machine.rates}
    compute = operator.macs / peak(operator, target, rates) / threads
    memory = operator.moved_bytes / machine.bandwidth if machine is not None else 0.0
    bound = "" if machine is None else "compute" if compute >= memory else "memory"
    return Roof(
        operator.macs / operator.moved_bytes, compute, memory, bound,
        max(compute, memory) / cost.median,
    )  # fmt: skip
