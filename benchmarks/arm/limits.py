"""What a core can do at most, and what the inner loop of a kernel reaches."""

from __future__ import annotations

import re

from tvm_qnn.estimate.kernels import Estimate

LIMITS = {
    "rpi3": {"bitserial": 128 / 3, "dot": 16 / 3},
    "rpi4": {"bitserial": 2 * 128 / 3, "dot": 8.0},
    "rpi5": {"bitserial": 2 * 128 / 3, "dot": 32.0},
}
"""Multiply-accumulates (of one plane pair, for ``bitserial``) in a cycle of one core.

128 bits take three vector instructions: AND, CNT and UADALP. The Cortex-A53 issues one a cycle, the
A72 and A76 two. 16 products of bytes take SMULL, SMLAL2 and SADALP: on the A53 one a cycle; the A72
has one pipe that multiplies 8 bytes a cycle. The A76 starts two SDOT of 16 products each.
"""

_PRODUCTS = re.compile(r"([su]m(?:ull|lal)2?|ml[as]|mul|[su]s?dot|cnt)\s+v\d+\.(\d+)([bhsd])")


def products(line: str) -> int:
    """Return the multiply-accumulates of one instruction; for CNT the bits that it counts."""
    found = _PRODUCTS.match(line)
    if found is None:
        return 0
    name, lanes = found[1], int(found[2])
    return lanes * (8 if name == "cnt" else 4 if name.endswith("dot") else 1)


def inner_rate(found: Estimate) -> float:
    """Return the multiply-accumulates in a cycle of the block that most cycles are spent in."""
    block = found.blocks[0]
    return sum(map(products, block.lines)) / block.cycles
