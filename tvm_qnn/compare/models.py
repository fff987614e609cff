"""The models of a session: imported, with inputs and what their definition answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.arrays import batches, random_arrays, read_npz
from tvm_qnn.compiler import read
from tvm_qnn.errors import InputError
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import Imported
from tvm_qnn.passes.pipeline import to_integers
from tvm_qnn.passes.rewrite import name_of

Array = NDArray[Any]
PEER = "onnxruntime"
"""The only baseline."""


@dataclass(frozen=True)
class Model:
    """A model of a session.

    Attributes:
        source: what the caller gave.
        batch: batch size where it leaves it open.
        imported: it, imported.
        arrays: one batch of inputs.
        origin: where they come from.
        expected: outputs by the definition of the integer program.
    """

    source: Any
    batch: int | None
    imported: Imported
    arrays: dict[str, Array]
    origin: str
    expected: list[Array]

    @property
    def name(self) -> str:
        """What the model is called in the report: ``zoo:NAME``, else what its importer says."""
        zoo = isinstance(self.source, str) and self.source.startswith("zoo:")
        return self.source if zoo else self.imported.name

    @property
    def ordered(self) -> list[Array]:
        """The inputs in their order."""
        return [self.arrays[info.name] for info in self.imported.inputs]


def read_model(source: Any, batch: int | None, inputs: Any) -> Model:
    """Import a model and choose its inputs."""
    imported = read(source, batch=batch)
    arrays, origin = _inputs(source, imported, inputs)
    first = next(iter(batches(imported.inputs, arrays)))
    return Model(source, batch, imported, first, origin, _defined(imported, first))


def _inputs(source: Any, imported: Imported, inputs: Any) -> tuple[dict[str, Array], str]:
    if inputs is not None:
        return read_npz(inputs), Path(inputs).name
    if isinstance(source, str) and source.startswith("zoo:"):
        from tvm_qnn import zoo

        return zoo.samples(source), f"the samples of {source}"
    return random_arrays(imported.inputs), "random numbers"


def _defined(imported: Imported, arrays: dict[str, Array]) -> list[Array]:
    """Return the outputs of the integer program of a model by its numpy definition."""
    module = to_integers(imported.module).module
    # Parameters have the names of the inputs as far as Relax allows them.
    names = [name_of(p) for p in module["main"].params]
    ordered = [arrays[info.name] for info in imported.inputs]
    return [np.asarray(o) for o in evaluate(module, dict(zip(names, ordered, strict=True)))[""]]


def onnx_file(source: Any) -> Path:
    """Return the ONNX file of a model.

    Raises:
        InputError: it is something else.
    """
    if isinstance(source, str) and source.startswith("zoo:"):
        from tvm_qnn import zoo

        return zoo.path(source)
    if isinstance(source, str | Path):
        return Path(source)
    raise InputError(f"baseline {PEER}: it takes ONNX files, not {type(source).__name__}")
