"""A trained memory network as arrays, and its float form as an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.export import Graph
from tvm_qnn.spec import FixedPoint


@dataclass(frozen=True)
class MemoryNetwork:
    """A trained memory network (section "Model Description" of the Q-MANN supplement).

    Attributes:
        address: W_a, float32 [V, E]; a row a word, row 0 (padding) is zero.
        content: W_r, float32 [V, E].
        question: W_q, float32 [V, E].
        key: W_k, float32 [E, E].
        answer: W_o, float32 [A, E].
        fmt: fixed-point format of the activations, and of the parameters without control; None for
            the float network.
        similarity: "dot" or "hamming".
        binary: whether the key enters products as its sign.
        control: whether every hop has its own parameter format (MQ).
        alpha: weight constant of the Hamming similarity.
        hops: number of reads.
        words: the words of the dictionary by number; the numbers behind them are time slots.
        name: of the graph.

    Raises:
        ModelError: if shapes do not fit, or the formats are impossible.
    """

    address: NDArray[np.float32]
    content: NDArray[np.float32]
    question: NDArray[np.float32]
    key: NDArray[np.float32]
    answer: NDArray[np.float32]
    fmt: FixedPoint | None
    similarity: str = "dot"
    binary: bool = False
    control: bool = False
    alpha: int = -3
    hops: int = 3
    words: tuple[str, ...] = field(default=(), repr=False)
    name: str = "memory_network"

    def __post_init__(self) -> None:
        rows, width = self.address.shape
        tables = {self.address.shape, self.content.shape, self.question.shape}
        fits = tables == {(rows, width)} and self.key.shape == (width, width)
        if not fits or self.answer.shape[1:] != (width,):
            raise ModelError(f"{self.name}: the shapes of its weights do not fit each other")
        if any(table[0].any() for table in (self.address, self.content, self.question)):
            raise ModelError(f"{self.name}: row 0 of its tables is padding and must be zero")
        if self.similarity not in ("dot", "hamming"):
            raise ModelError(
                f"{self.name}: similarity {self.similarity!r} has no exported form, only 'dot' and "
                "'hamming' have"
            )
        if self.fmt is None and (self.similarity != "dot" or self.binary or self.control):
            raise ModelError(f"{self.name}: a float network has dot products and real keys only")
        if self.control and self.hops != 3:
            raise ModelError(f"{self.name}: control of the formats is defined for 3 hops")
        if self.fmt is not None:
            self.hop_formats()

    @property
    def width(self) -> int:
        """The internal dimension E."""
        return int(self.address.shape[1])

    def hop_formats(self) -> list[FixedPoint]:
        """Return the parameter format of each hop."""
        fmt = self.fmt
        assert fmt is not None
        steps = (1, 0, -1) if self.control else (0,) * self.hops
        try:
            return [FixedPoint(fmt.integer + step, fmt.fraction - step) for step in steps]
        except ValueError as error:
            raise ModelError(f"{self.name}: {error}") from None


def float_network(graph: Graph, net: MemoryNetwork) -> None:
    """Add a float32 network of standard operators, from ``story`` and ``question`` to ``logits``.

    Empty slots get a score that no softmax can see.
    """

    def axis(value: int) -> str:
        name = f"axis_{len(graph.initializers)}"
        return graph.constant(name, np.array([value], np.int64))

    def bag(name: str, weights: str, table: NDArray[np.float32], words: str) -> str:
        rows = graph.node("Gather", f"{name}_rows", [graph.constant(weights, table), words])
        return graph.node("ReduceSum", name, [rows, axis(-2)], keepdims=0)

    zero = graph.constant("zero", np.int32(0))
    empty = graph.node("Equal", "empty_words", ["story", zero])
    number = graph.node("Cast", "empty_number", [empty], to=TensorProto.FLOAT)
    padding = graph.node("ReduceMin", "empty_slots", [number, axis(-1)], keepdims=0)
    penalty = graph.node(
        "Mul", "penalty", [padding, graph.constant("lowest", np.float32(-(2.0**100)))]
    )
    one = graph.constant("one", np.float32(1))
    valid = graph.node("Sub", "valid", [one, padding])
    address = bag("memory_a", "w_a", net.address, "story")
    content = bag("memory_r", "w_r", net.content, "story")
    key = bag("key_0", "w_q", net.question, "question")
    graph.constant("w_k", np.ascontiguousarray(net.key.T))
    graph.constant("w_o", np.ascontiguousarray(net.answer.T))
    for hop in range(1, net.hops + 1):
        column = graph.node("Unsqueeze", f"column_{hop}", [key, axis(-1)])
        score = graph.node("MatMul", f"score_{hop}_matrix", [address, column])
        score = graph.node("Squeeze", f"score_{hop}", [score, axis(-1)])
        seen = graph.node("Add", f"seen_{hop}", [score, penalty])
        p = graph.node("Softmax", f"p_{hop}_all", [seen], axis=-1)
        p = graph.node("Mul", f"p_{hop}", [p, valid])
        row = graph.node("Unsqueeze", f"row_{hop}", [p, axis(-2)])
        read = graph.node("MatMul", f"read_{hop}_matrix", [row, content])
        read = graph.node("Squeeze", f"read_{hop}", [read, axis(-2)])
        mapped = graph.node("MatMul", f"update_{hop}", [key, "w_k"])
        key = graph.node("Add", f"key_{hop}", [mapped, read])
    graph.node("MatMul", "answer", [key, "w_o"], "logits")
