"""Energy of the arithmetic of an inference, from the operations of its operators.

The table is :data:`tvm_qnn.picojoules.PICOJOULES` (Horowitz, ISSCC 2014, as Q-MANN prints it).
It has 8-bit and 32-bit integers and floats. A product of a w-bit weight and an x-bit code counts as
``w * x / 64`` multiplications of 8 bits, for the area of a multiplier grows with both widths; each
product is added to a 32-bit accumulator. A convolution with M-ary weights adds its activations
first, and then multiplies and adds M floats for each result. Memory traffic is not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from tvm_qnn.inspection import Row
from tvm_qnn.picojoules import PICOJOULES

_FLOAT = 32


def operations(rows: Iterable[Row]) -> dict[str, float]:
    """Return how often each operation of the table happens."""
    found: Counter[str] = Counter()
    for row in rows:
        if row.codebook:
            products = row.codebook * math.prod(row.shape)
            found.update({"int32 add": row.macs, "fp32 multiply": products, "fp32 add": products})
        elif row.macs and _FLOAT in (row.weight_bits, row.activation_bits):
            found.update({"fp32 multiply": row.macs, "fp32 add": row.macs})
        elif row.macs:
            # Products of two activations have no weights.
            weight_bits = row.weight_bits or row.activation_bits
            multiplications = row.macs * weight_bits * row.activation_bits / 64
            found.update({"int8 multiply": multiplications, "int32 add": row.macs})
    return dict(found)


def picojoules(counts: dict[str, float]) -> float:
    """Return the energy of operations in picojoules."""
    return sum(PICOJOULES[name] * count for name, count in counts.items())
