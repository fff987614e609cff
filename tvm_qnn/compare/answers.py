"""What a model answers: by its definition, and how often rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.arrays import accuracy, batches, joined, read_npz
from tvm_qnn.compare.rows import HERE, RECORDED, Accuracy
from tvm_qnn.compiler import compile
from tvm_qnn.errors import InputError
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import Imported
from tvm_qnn.passes.pipeline import to_integers
from tvm_qnn.passes.rewrite import name_of

if TYPE_CHECKING:
    from tvm_qnn.compare.session import Entry

Array = NDArray[Any]
PEER = "onnxruntime"


def defined(imported: Imported, arrays: dict[str, Array]) -> list[Array]:
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


def add_accuracy(entries: Sequence[Entry], inputs: Any, labels: Any) -> None:
    """Add the share of right answers to variants for which something tells it.

    Labels are compared with what the program of this machine answers. All targets compute the same
    integers, so what holds for one integer program of a model holds for the others.
    """
    given = _given(inputs, labels)
    shared: dict[int, Accuracy | None] = {}
    for entry in entries:
        lowering, model = entry.variant.lowering, entry.model
        if given is None:
            found = _recorded(model.source) if lowering != "float" else None
        elif lowering == PEER:
            found = None
        elif lowering == "float":
            native = entry.place is not None and entry.place.kind == HERE
            found = _measured(entry.built.artifact, *given) if native and entry.built else None
        else:
            if id(model) not in shared:
                program = compile(model.source, batch=model.batch)
                shared[id(model)] = _measured(program, *given)
            found = shared[id(model)]
        entry.variant = replace(entry.variant, accuracy=found)


def _given(inputs: Any, labels: Any) -> tuple[dict[str, Array], Array] | None:
    """Return inputs and labels; None without labels."""
    arrays = read_npz(inputs) if inputs is not None else {}
    if labels is None:
        return (arrays, arrays["labels"]) if "labels" in arrays else None
    found = read_npz(labels)
    if len(found) != 1 and "labels" not in found:
        raise InputError(f"{labels}: name the array of labels 'labels', among {sorted(found)}")
    return arrays, found["labels"] if "labels" in found else next(iter(found.values()))


def _measured(artifact: Any, arrays: dict[str, Array], labels: Array) -> Accuracy:
    program = artifact.program
    name = program.outputs[0].name
    scores = joined([program.run(piece)[name] for piece in batches(program.inputs, arrays)])
    return Accuracy(accuracy(scores, labels), len(labels), HERE)


def _recorded(source: Any) -> Accuracy | None:
    if not isinstance(source, str) or not source.startswith("zoo:"):
        return None
    from tvm_qnn import zoo

    entry = zoo.entry(source)
    return Accuracy(entry.test_accuracy, entry.test_samples, RECORDED)
