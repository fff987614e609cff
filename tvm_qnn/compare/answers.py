"""What a model answers: by its definition, and how often rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.arrays import accuracy, batches, joined, read_npz
from tvm_qnn.compare.models import PEER
from tvm_qnn.compare.rows import HERE, RECORDED, Accuracy, Check
from tvm_qnn.compiler import compile
from tvm_qnn.errors import InputError

if TYPE_CHECKING:
    from tvm_qnn.compare.session import Entry

Array = NDArray[Any]


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


def compared(kind: str, outputs: Sequence[Array], expected: Sequence[Array]) -> Check:
    """Compare outputs with those of the definition."""
    differing, elements, largest = 0, 0, 0.0
    for got, wanted in zip(outputs, expected, strict=True):
        got = got.reshape(wanted.shape)
        differing += int((got != wanted).sum())
        elements += wanted.size
        apart = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        largest = max(largest, float(apart.max(initial=0.0)))
    return Check(kind, elements, differing, largest)
