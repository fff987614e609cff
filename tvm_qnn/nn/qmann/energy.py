"""Energy of one answer of a memory network, from its operations.

Source: the energy of an operation is Horowitz (ISSCC 2014), as Q-MANN tables 1 and S1 print it. The
paper does not print how many operations it counts. This count is a reconstruction that gives its
three gains: memory embeddings are recomputed for every hop, the output layer stays in float, the
softmax is left out, and a Hamming element is one addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_qnn.picojoules import PICOJOULES

PUBLISHED_GAINS = {"mann8": 20.22, "qmann8": 21.03, "mann1": 22.25, "qmann1": 22.25}
"""Q-MANN, main table: how many times less energy than the float network."""


@dataclass(frozen=True)
class Dimensions:
    """What decides the number of operations of one answer.

    Attributes:
        inputs: I, words and time words.
        embedding: E.
        slots: L.
        hops: R.
    """

    inputs: int = 44
    embedding: int = 60
    slots: int = 50
    hops: int = 3


def operations(kind: str, size: Dimensions) -> dict[str, int]:
    """Operations of one answer.

    Args:
        kind: "float"; "mann8" (8-bit dot product), "qmann8" (8-bit, Hamming), or "mann1" and
            "qmann1" (binary keys).
        size: Dimensions of the network.

    Returns:
        How often each operation of :data:`PICOJOULES` happens.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in ("float", *PUBLISHED_GAINS):
        raise ValueError(f"kind must be float, {', '.join(PUBLISHED_GAINS)}; got {kind!r}")
    unit = "fp32" if kind == "float" else "int8"
    # Binary bags of words only add; W_a and W_r of every slot and hop, and W_q once.
    adds = (2 * size.hops * size.slots + 1) * size.embedding * size.inputs
    similarity = size.hops * size.slots * size.embedding
    read = similarity
    key = size.hops * size.embedding**2
    adds += similarity + read + key + size.hops * size.embedding
    multiplies = read
    if kind in ("float", "mann8"):
        multiplies += similarity
    if not kind.endswith("1"):
        multiplies += key
    output = size.inputs * size.embedding
    counts = {f"{unit} add": adds, f"{unit} multiply": multiplies}
    for operation in ("fp32 add", "fp32 multiply"):
        counts[operation] = counts.get(operation, 0) + output
    return counts


def picojoules(kind: str, size: Dimensions) -> float:
    """Energy of one answer in picojoules; arguments as for :func:`operations`."""
    return sum(PICOJOULES[name] * count for name, count in operations(kind, size).items())


def gain(kind: str, size: Dimensions) -> float:
    """How many times less energy an answer takes than in float."""
    return picojoules("float", size) / picojoules(kind, size)
