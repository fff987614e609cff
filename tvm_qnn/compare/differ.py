"""The first operator whose integers differ between two targets, with input that shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.arrays import batches, random_arrays
from tvm_qnn.compiler import prepared, read, records, resolve
from tvm_qnn.errors import TargetError
from tvm_qnn.frontend import Imported
from tvm_qnn.inspection import source_name
from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.passes.rewrite import calls, name_of
from tvm_qnn.schedules.database import Database
from tvm_qnn.spec import Codes, unpack_planes
from tvm_qnn.targets import Target
from tvm_qnn.verification import observed, stated_floats

Array = NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Difference:
    """What two targets make of one operator.

    Attributes:
        name: node of the source.
        elements: of its result.
        differing: how many of them differ.
        where: index of the first of them, from the result as NHWC codes.
        values: what the two targets computed there.
        inputs: one batch of inputs that shows it.
    """

    name: str
    elements: int
    differing: int
    where: tuple[int, ...]
    values: tuple[Any, Any]
    inputs: dict[str, Array]


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`diff`.

    Attributes:
        first: the first operator that differs, None if none does.
        operators: number of operators that both targets compute.
        batches: of inputs that were compared.
    """

    first: Difference | None
    operators: int
    batches: int


def diff(
    model: Any, targets: tuple[str | Target, str | Target],
    inputs: Mapping[str, Array] | None = None, *, lowering: str = "auto", batch: int | None = None,
    database: str | Path | Database | None = None, limit: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Comparison:  # fmt: skip
    """Run a model operator by operator on two targets and compare all integers.

    Args:
        model: as for :func:`tvm_qnn.compile`.
        targets: both must run on this machine, or on an emulated board.
        inputs: arrays by name, any multiple of the model's batch; random ones if None.
        lowering: as for :func:`tvm_qnn.compile`.
        batch: as for :func:`tvm_qnn.compile`.
        database: records of tuned kernels, as for :func:`tvm_qnn.compile`.
        limit: compare this many batches at most.
        progress: called with the number of batches done and their total.

    Raises:
        InputError: if the inputs do not fit the model.
        TargetError: if code for a target does not run here.
    """
    if lowering == "float":
        raise TargetError("lowering 'float' has no integers to compare; leave it out")
    imported = read(model, batch=batch)
    arrays = random_arrays(imported.inputs) if inputs is None else dict(inputs)
    pieces = list(batches(imported.inputs, arrays))[:limit]
    tuned = records(database)
    sides = [_Side(imported, resolve(target), lowering, tuned) for target in targets]
    shared = [name for name in sides[0].names if name in sides[1].names]
    compared: set[str] = set()
    for done, piece in enumerate(pieces):
        progress(done, len(pieces))
        ordered = [piece[info.name] for info in imported.inputs]
        first, second = (side.run(ordered) for side in sides)
        for name in (n for n in shared if n in first and n in second):
            compared.add(source_name(name, imported))
            same = first[name] == second[name].reshape(first[name].shape)
            if not same.all():
                where = tuple(int(i) for i in np.argwhere(~same)[0])
                values = (first[name][where].item(), second[name][where].item())
                found = Difference(
                    source_name(name, imported), same.size, int((~same).sum()), where, values, piece
                )
                return Comparison(found, len(compared), done + 1)
    progress(len(pieces), len(pieces))
    return Comparison(None, len(compared), len(pieces))


class _Side:
    """A model on one target, operator by operator."""

    def __init__(self, imported: Imported, device: Target, lowering: str, tuned: Database) -> None:
        module, _ = prepared(imported, device, lowering, tuned)
        self._run = observed(module, imported, device, tuned)
        self._exact = stated_floats(module)
        self._planes: dict[str, tuple[str, Codes, int]] = {}
        for name, call in calls(module):
            if is_op(call, "qnn.pack"):
                source = call.args[0]
                channels = shape_of(source)[-1]
                self._planes[name] = (name_of(source), codes_of(attrs_of(call)), channels)
        self.names = [name for name, _ in calls(module)]

    def run(self, ordered: list[Array]) -> dict[str, Array]:
        """Return what must be equal on all targets by name, bit planes as the codes they hold."""
        found = {}
        for name, result in self._run(ordered).items():
            if name in self._planes:
                source, codes, channels = self._planes[name]
                found[source] = unpack_planes(result, channels, codes)
            elif result.dtype.kind in "iub" or name in self._exact:
                found.setdefault(name, result)
        return found
