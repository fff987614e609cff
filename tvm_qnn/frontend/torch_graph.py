"""A torch program under import: tensors, and calls with their arguments by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.record import Refused, quoted


@dataclass
class Value:
    """A tensor of the program: a Relax expression, made on demand for constants."""

    shape: tuple[int, ...]
    dtype: str
    expr: Any = None
    data: NDArray[np.generic] | None = None

    def use(self) -> Any:
        """Return the Relax expression."""
        if self.expr is None:
            self.expr = relax.const(self.data, self.dtype)
        return self.expr


class Node:
    """A call of an ATen operator; ``n[name]`` is an argument, with the default of its schema.

    Attributes:
        shape: Shape of the result.
        dtype: Dtype of the result.
    """

    def __init__(
        self, node: Any, shape: tuple[int, ...], dtype: str, values: dict[str, Value],
        builder: Any, sources: dict[str, str],
    ) -> None:  # fmt: skip
        self.node, self.shape, self.dtype = node, shape, dtype
        self.values, self.builder, self.sources = values, builder, sources
        schema = node.target._schema.arguments
        self.args = {a.name: a.default_value for a in schema if a.has_default_value()}
        self.args |= {a.name: v for a, v in zip(schema, node.args, strict=False)}
        self.args |= dict(node.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.args.get(name)

    def emit(self, expr: Any) -> Any:
        """Bind a result of the node."""
        bound = self.builder.emit(expr)
        self.sources[str(bound.name)] = self.node.name
        return bound

    def need(self, condition: Any, reason: str) -> None:
        """Refuse the node unless ``condition`` holds."""
        if not condition:
            raise Refused(reason)

    def value(self, name: str) -> Value:
        """Return a tensor argument."""
        found = self[name]
        self.need(isinstance(found, torch.fx.Node), f"argument {quoted(name)} is not a tensor")
        return self.values[found.name]

    def use(self, name: str) -> Any:
        """Return the expression of a tensor argument."""
        return self.value(name).use()

    def operand(self, name: str, dtype: str) -> Any:
        """Return a tensor or a number as an operand of type ``dtype``."""
        found = self[name]
        if isinstance(found, bool | int | float):
            return relax.const(np.asarray(found, dtype), dtype)
        value = self.value(name)
        if value.dtype == dtype:
            return value.use()
        return self.emit(relax.op.astype(value.use(), dtype))

    def pair(self, name: str, rank: int) -> list[int]:
        """Return an argument that is one integer, or one for each spatial axis."""
        given = self[name]
        found = [given] if isinstance(given, int) else list(given or [])
        found = found * rank if len(found) == 1 else found
        good = len(found) == rank and all(isinstance(v, int) for v in found)
        self.need(good, f"{name} {given} for {rank} spatial axes")
        return found
