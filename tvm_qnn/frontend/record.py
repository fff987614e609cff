"""What every importer returns, and what they share: names for bindings and lists of problems."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from warnings import catch_warnings, simplefilter

from tvm_qnn.errors import UnsupportedError

INPUT_DTYPES = ("float32", "uint8", "int8")
"""What a network may take; everything else is converted by the caller."""

MAX_ELEMENTS = 2**31 - 1
"""Elements of one tensor: TVM numbers them with int32."""

_LISTED = 20


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a network.

    Attributes:
        name: Its name in the source.
        shape: Static shape.
        dtype: Dtype in the module; 4-bit and 2-bit codes are stored as uint8 or int8.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


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
    """

    module: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    name: str
    source: str
    names: dict[str, str]


class Refused(Exception):  # noqa: N818 (not an error that leaves this package)
    """A node cannot be imported; the text is the reason."""


class Namer:
    """Gives every binding an identifier made from the name of its source node."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._taken: set[str] = set()

    def fresh(self, source: str, part: str = "") -> str:
        """Return an unused identifier for a binding of node ``source``."""
        base = re.sub(r"\W+", "_", f"{source}_{part}" if part else source, flags=re.ASCII)
        base = base.strip("_")[:100] or "node"
        if base[0].isdigit() or keyword.iskeyword(base):
            base = f"n_{base}"
        name, count = base, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name

    def record(self, var: Any, source: str) -> None:
        """Note the node that a variable of the module comes from."""
        self.names[str(var.name)] = source

    def complete(self, function: Any) -> dict[str, str]:
        """Return the source of every binding; what a node binds on its way counts as its own."""
        waiting: list[str] = []
        for block in function.body.blocks:
            for binding in block.bindings:
                name = str(binding.var.name)
                if name not in self.names:
                    waiting.append(name)
                    continue
                self.names.update(dict.fromkeys(waiting, self.names[name]))
                waiting = []
        return dict(self.names)


@dataclass
class Problems:
    """Everything that keeps a model from being imported, reported at once."""

    found: list[str] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, reason: str) -> None:
        """Note that ``where`` (a node, an input, ...) cannot be imported."""
        self.found.append(f"{where}: {reason}")

    def add_unknown(self, operator: str, node: str) -> None:
        """Note a node whose operator is not known; operators are reported once each."""
        self.unknown.setdefault(operator, []).append(node)

    def __bool__(self) -> bool:
        return bool(self.found or self.unknown)

    def raise_if_any(self, model: str) -> None:
        """Raise one UnsupportedError that lists everything."""
        lines = [_unknown_line(op, nodes) for op, nodes in self.unknown.items()] + self.found
        if not lines:
            return
        more = f"; and {len(lines) - _LISTED} more problems" if len(lines) > _LISTED else ""
        raise UnsupportedError(f"{model}: {'; '.join(lines[:_LISTED])}{more}")


def _unknown_line(operator: str, nodes: list[str]) -> str:
    shown = ", ".join(quoted(n) for n in nodes[:5]) + (", ..." if len(nodes) > 5 else "")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}: "
    return f"operator {plain(operator)} is not supported ({count}{shown})"


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
    text = (telling or [type(error).__name__])[0]
    # TVM writes "(condition) is false: reason", which is the reason for us.
    return plain(text.split("is false:")[-1].strip() or text)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the importers of TVM print and warn about away from the user."""
    with catch_warnings(), redirect_stdout(StringIO()):
        simplefilter("ignore")
        yield
