"""What every importer returns, and what they share: checks, and lists of problems."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from warnings import catch_warnings, simplefilter

from tvm_qnn._tvm import relax
from tvm_qnn.arrays import TensorInfo
from tvm_qnn.errors import UnsupportedError

INPUT_DTYPES = ("float32", "uint8", "int8")
"""What a network may take; everything else is converted by the caller."""

MAX_ELEMENTS = 2**31 - 1
"""Elements of one tensor: TVM numbers them with int32."""

_LISTED = 20


@dataclass(frozen=True)
class Imported:
    """A network as one Relax function "main", in the terms of its source.

    Attributes:
        module: Relax module; constants are embedded, parameters are the inputs in their order.
        inputs: The inputs, in the order of the parameters of "main".
        outputs: The outputs; more than one make a tuple.
        name: Name of the network.
        source: "onnx", "torch" or "relax".
        names: Source node of every binding: name of the Relax variable -> name of the node.
        notes: What a user should know of the import, one line each.
    """

    module: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    name: str
    source: str
    names: dict[str, str]
    notes: tuple[str, ...] = ()


class Refused(Exception):  # noqa: N818 (not an error that leaves this package)
    """A node cannot be imported; the text is the reason."""


@dataclass
class Problems:
    """Everything that keeps a model from being imported, reported at once."""

    found: list[str] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, reason: str) -> None:
        """Note that ``where`` (a node, an input, ...) cannot be imported."""
        self.found.append(f"{where}: {reason}")

    def add_unknown(self, operator: str, node: str, advice: str = "") -> None:
        """Note a node whose operator is not known; operators are reported once each."""
        self.unknown.setdefault(operator, []).append(node)
        self.advice[operator] = f"; {advice}" if advice else ""

    def __bool__(self) -> bool:
        return bool(self.found or self.unknown)

    def raise_if_any(self, model: str) -> None:
        """Raise one UnsupportedError that lists everything."""
        lines = [_unknown_line(op, nodes) + self.advice[op] for op, nodes in self.unknown.items()]
        lines += self.found
        if not lines:
            return
        more = f"; and {len(lines) - _LISTED} more problems" if len(lines) > _LISTED else ""
        raise UnsupportedError(f"{model}: {'; '.join(lines[:_LISTED])}{more}")


def _unknown_line(operator: str, nodes: list[str]) -> str:
    shown = ", ".join(quoted(n) for n in nodes[:5]) + (", ..." if len(nodes) > 5 else "")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}: "
    return f"operator {plain(operator)} is not supported ({count}{shown})"


def static_shape(kind: Any) -> tuple[int, ...]:
    """Return the shape of a Relax tensor type.

    Raises:
        Refused: It is not a tensor, its shape is not static, or it is empty or too large.
    """
    if not isinstance(kind, relax.TensorType):
        raise Refused(f"is {plain(kind)}, not a tensor")
    dims = [] if kind.shape is None else list(kind.shape)
    if kind.shape is None or not all(hasattr(d, "value") for d in dims):
        raise Refused(f"has the dynamic shape {plain(dims or '?')}; give it a fixed shape")
    shape = tuple(int(d.value) for d in dims)
    check_shape(shape)
    return shape


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse empty tensors and those with more elements than TVM can number."""
    if any(d < 1 for d in shape):
        raise Refused(f"a tensor of shape {plain(list(shape))} is empty")
    if math.prod(shape) > MAX_ELEMENTS:
        raise Refused(f"a tensor of shape {plain(list(shape))} has more than 2**31-1 elements")


def plain(text: object, limit: int = 160) -> str:
    """Return ``text`` as one printable line of at most ``limit`` characters."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def quoted(name: object) -> str:
    """Return a name from the source, in quotes and printable."""
    return f"'{plain(name, 80)}'"


def reason_of(error: BaseException) -> str:
    """Return the telling line of an exception of TVM or ONNX, which may hold a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("File ", "Traceback", "at "))]
    text = (telling or [type(error).__name__])[0].replace("[ShapeInferenceError] ", "")
    # TVM prints operators and numbers as objects.
    text = re.sub(r'ir\.Op\(.*?name="(?:relax\.)?([^"]+)".*?support_level=\d+\)', r"\1", text)
    text = re.sub(r"T\.u?int\d+\((-?\d+)\)", r"\1", text)
    # "Check failed: (condition) is false: reason".
    return plain(text.split("is false:")[-1].strip() or text).rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the importers of TVM print and warn about away from the user."""
    with catch_warnings(), redirect_stdout(StringIO()):
        simplefilter("ignore")
        yield
