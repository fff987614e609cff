"""What decides a memory network and its training: formats, similarity, recipe.

Source: Q-MANN (Park et al., "Quantized Memory-Augmented Neural Networks", AAAI 2018), and for what
the paper leaves open the facts of the authors' published code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tvm_qnn.spec.fixed import FixedPoint

Similarity = Literal["dot", "hamming", "hamming-code"]
SignTerm = Literal["consistent", "printed", "code"]
SIGN_TERMS: dict[str, tuple[float, float]] = {
    "consistent": (0.0, 2.0),
    "printed": (2.0, 0.0),
    "code": (-1.0, 0.0),
}
"""Sign term of equation 7 where the signs differ: (a, b) of ``2**alpha * (a + b * S_other)``."""
MATRICES = ("wa", "wr", "wq", "wk", "wo")
"""Weights of a network, in the order of the compiled trainer."""
Weights = dict[str, np.ndarray]
"""The five :data:`MATRICES` by name: ``[V, E]``, and ``wk [E, E]`` (out, in); float32."""
MOST_BITS = 13
"""float32 holds the product of two magnitudes of 12 bits exactly."""


@dataclass(frozen=True)
class QmannConfig:
    """A memory network.

    Attributes:
        format: Fixed-point format of parameters and activations; None for float.
        similarity: "dot"; "hamming" as in the paper (equation 6); or "hamming-code", the bounded
            similarity that the authors' code computes.
        binary: Whether the key enters products as its sign. (The Hamming similarity keeps it.)
        control: Formats per hop (MQ): Q(i+1).(f-1), Q(i).(f), Q(i-1).(f+1) on the parameter side.
        sign_term: How the sign term of equation 7 is read; see :mod:`tvm_qnn.nn.qmann.network`.
        read_gradient: "quantized": with a Hamming similarity the gradient of the weighted read is
            computed in fixed point, Q1.(i+f-1), as in the authors' code; "float": never, as the
            paper says. See :mod:`tvm_qnn.nn.qmann.network`.
        alpha: Weight constant of the Hamming similarity.
        embedding: Internal dimension E.
        hops: Reads R.
    """

    format: FixedPoint | None = None
    similarity: Similarity = "dot"
    binary: bool = False
    control: bool = False
    sign_term: SignTerm = "code"
    read_gradient: Literal["float", "quantized"] = "float"
    alpha: int = -3
    embedding: int = 60
    hops: int = 3

    def __post_init__(self) -> None:
        if self.similarity not in ("dot", "hamming", "hamming-code"):
            raise ValueError(f"there is no similarity {self.similarity!r}")
        if self.sign_term not in SIGN_TERMS:
            raise ValueError(f"sign_term must be one of {', '.join(SIGN_TERMS)}")
        if self.read_gradient not in ("quantized", "float"):
            raise ValueError("read_gradient must be 'quantized' or 'float'")
        if self.embedding < 1 or not 1 <= self.hops <= 8:
            raise ValueError("a network needs an embedding of 1 or more and 1 to 8 hops")
        if self.format is None and (self.similarity != "dot" or self.binary or self.control):
            raise ValueError("Hamming similarity, binary keys and MQ need a fixed-point format")
        if self.format is not None and self.format.bits > MOST_BITS:
            raise ValueError(f"{self.format} is too wide to train; the most are {MOST_BITS} bits")
        if self.control and (self.hops != 3 or self.format is None or not self._room()):
            raise ValueError("MQ needs 3 hops and a format with at least 1 bit on either side")

    def _room(self) -> bool:
        return self.format is not None and min(self.format.integer, self.format.fraction) > 0

    def hop_formats(self) -> tuple[FixedPoint, ...]:
        """Format of the parameters of every hop (``W_q`` has the first); empty for float."""
        if self.format is None:
            return ()
        if not self.control:
            return (self.format,) * self.hops
        i, f = self.format.integer, self.format.fraction
        return FixedPoint(i + 1, f - 1), self.format, FixedPoint(i - 1, f + 1)

    @property
    def read_scale(self) -> float:
        """Codes in one unit of the gradient of the weighted read; 0 where it stays in float."""
        if self.format is None or self.similarity == "dot" or self.read_gradient == "float":
            return 0.0
        return 2.0 ** (self.format.bits - 2)


@dataclass(frozen=True)
class QmannRecipe:
    """How a network is trained: plain gradient descent in the order of the questions.

    Attributes:
        epochs: Passes over the training questions.
        batch: Questions of an update.
        rate: Learning rate, relative to the mean gradient of a full batch.
        halve: Epochs after which the rate is halved, again and again.
        key_rate: Learning rate of ``W_k`` relative to ``rate``.
        clip: Largest norm of the summed gradient of a matrix.
        key_clip: The same for ``W_k``.
        deviation: Standard deviation of the initial weights.
        patience: Epochs after the best one in which early stopping never ends a run.
        margin: Validation error above the best one, as a part of 1, that ends a run.
    """

    epochs: int = 100
    batch: int = 32
    rate: float = 0.3
    halve: int = 25
    key_rate: float = 0.1
    clip: float = 40.0
    key_clip: float = 20.0
    deviation: float = 0.1
    patience: int = 5
    margin: float = 0.3

    def step(self, epoch: int) -> float:
        """Factor of the summed gradient in an epoch, counted from 1: a float32 number."""
        return float(np.float32(self.rate * 0.5 ** ((epoch - 1) // self.halve) / self.batch))


_DOT = QmannConfig(FixedPoint(5, 2))
_HAMMING = QmannConfig(FixedPoint(2, 5), "hamming")
CONFIGS: dict[str, tuple[QmannConfig, bool]] = {
    "float": (QmannConfig(), False),
    "mann8": (_DOT, False),
    "mann8-es": (_DOT, True),
    "mann8-es-mq": (replace(_DOT, control=True), True),
    "qmann8": (_HAMMING, False),
    "qmann8-es": (_HAMMING, True),
    "qmann8-es-mq": (replace(_HAMMING, control=True), True),
    "mann1": (replace(_DOT, binary=True), False),
    "mann1-es": (replace(_DOT, binary=True), True),
    "mann1-es-mq": (replace(_DOT, binary=True, control=True), True),
    "qmann1": (replace(_HAMMING, binary=True), False),
    "qmann1-es": (replace(_HAMMING, binary=True), True),
    "qmann1-es-mq": (replace(_HAMMING, binary=True, control=True), True),
}
"""The rows of the paper's table: network, and whether the best epoch answers (early stopping).

The number is that of the activation bits; formats are Q5.2 for MANN and Q2.5 for Q-MANN.
"""


def parse_format(text: str) -> FixedPoint:
    """Read a format such as "Q2.5".

    Raises:
        ValueError: The text is no format.
    """
    found = re.fullmatch(r"Q(\d+)\.(\d+)", text)
    if not found:
        raise ValueError(f"{text!r} is no fixed-point format; write it like Q2.5")
    return FixedPoint(int(found[1]), int(found[2]))
