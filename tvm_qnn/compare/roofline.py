"""Where an operator lies under the roof of its device.

The roof is the peak of the target record for the kernel's way of computing, and the bytes that the
operator reads and writes over the bandwidth of a copy between arrays larger than the caches. Small
networks live in the caches, so an operator may be faster than its bytes would allow.
"""

from __future__ import annotations

from tvm_qnn.compare.rows import Cost, Operator, Roof
from tvm_qnn.targets import Target


def peak(operator: Operator, target: Target) -> float:
    """Return the multiply-accumulates a cycle that the kernel could reach on one core."""
    rates = target.rates
    # Codebook weights become one weight of a single bit for each of their values.
    indicators = operator.codebook or 1
    if operator.kernel.endswith("_bitserial"):
        weight_bits = indicators if operator.codebook else operator.weight_bits
        return rates.bitserial / (weight_bits * operator.activation_bits)
    if operator.kernel.endswith("_dot"):
        return rates.dot / indicators
    if operator.kernel.endswith("_reference"):
        return rates.reference
    if operator.kernel.startswith("qmemory"):
        return rates.dot
    # One vector addition of 16-bit sums, or one fused multiply-add of floats, in a cycle.
    return target.vector_bytes / (2 if operator.kernel.endswith("_taps") else 4)


def roof(
    operator: Operator, cost: Cost, target: Target, clock_hz: float | None,
    bandwidth: float | None, threads: int = 1,
) -> Roof | None:  # fmt: skip
    """Return the place of an operator; None where nothing tells it.

    Args:
        operator: with its multiply-accumulates and bytes.
        cost: of the operator.
        target: whose rates are the peak.
        clock_hz: of the machine that measured.
        bandwidth: of the machine that measured, bytes a second.
        threads: that shared the arithmetic.
    """
    if not operator.macs or (cost.unit == "seconds" and clock_hz is None):
        return None
    cycles = operator.macs / peak(operator, target) / threads
    compute, memory = cycles, 0.0
    if cost.unit == "seconds" and clock_hz is not None:
        compute = cycles / clock_hz
        memory = operator.moved_bytes / bandwidth if bandwidth else 0.0
    bound = ("compute" if compute >= memory else "memory") if memory else ""
    return Roof(
        operator.macs / operator.moved_bytes, compute, memory, bound,
        max(compute, memory) / cost.median,
    )  # fmt: skip
