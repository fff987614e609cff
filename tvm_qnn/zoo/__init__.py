"""Small trained models that ship with the package, with inputs, labels and measured accuracy.

Needs numpy only. ``zoo.json`` holds one record a model, written by ``tvm-qnn train publish`` from
the trained checkpoint and a measurement over the whole test set.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tvm_qnn.errors import ModelError

_FOLDER = Path(__file__).parent
_PREFIX = "zoo:"


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo.

    Attributes:
        name: How to ask for it, such as "maqd-fashion" (or "zoo:maqd-fashion").
        file: Name of the ONNX file.
        samples_file: Name of the file with sample inputs and labels.
        task: What it was trained for.
        weights: Description of the weights, such as "ternary (-1, 0, 1)".
        activations: Description of the activations.
        test_accuracy: Part of the test samples answered right by ONNX Runtime, 0..1.
        test_samples: Number of test samples (images, questions) behind ``test_accuracy``.
        size_bytes: Size of the ONNX file.
        sha256: Checksum of the ONNX file.
        description: One line about the model.
        source: The method, and what is known and assumed about it.
        recipe: The command that trained it.
        protocol: How the accuracy was measured.
        versions: Versions of what trained and measured it, by name.
        data_notice: Copyright notice and licence of the samples.
    """

    name: str
    file: str
    samples_file: str
    task: str
    weights: str
    activations: str
    test_accuracy: float
    test_samples: int
    size_bytes: int
    sha256: str
    description: str
    source: str
    recipe: str
    protocol: str
    versions: dict[str, str]
    data_notice: str


def entries() -> list[ZooEntry]:
    """All models of the zoo, by name; numbers in names by size."""

    def parts(name: str) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]

    return [_entry(name) for name in sorted(_records(), key=parts)]


def entry(name: str) -> ZooEntry:
    """The record of one model.

    Args:
        name: Name in the zoo, with or without the prefix "zoo:".

    Raises:
        ModelError: There is no such model; the message lists those there are.
    """
    return _entry(name)


def path(name: str) -> Path:
    """The ONNX file of a model.

    Raises:
        ModelError: There is no such model, or its file is missing from this installation.
    """
    return _installed(_entry(name).file)


def samples(name: str) -> dict[str, np.ndarray]:
    """Test inputs of a model and their labels.

    Returns:
        Every input by its name in the model, for all samples at once, and ``labels`` ``[N]`` int64,
        the right outputs. Images are float32 in [0, 1], words are int32 indices.
        ``maqd-fashion``: ``image`` ``[256, 1, 28, 28]``, the first images of the official test set.

    Raises:
        ModelError: There is no such model, or its file is missing from this installation.
    """
    with np.load(_installed(_entry(name).samples_file)) as stored:
        arrays = {key: stored[key] for key in stored.files}
    labels = arrays.pop("labels").astype(np.int64)
    return {**{key: _input(x) for key, x in arrays.items()}, "labels": labels}


def _input(stored: np.ndarray) -> np.ndarray:
    # Images are stored as the 8-bit values that they are.
    return stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored


def _entry(name: str) -> ZooEntry:
    records = _records()
    record = records.get(name.removeprefix(_PREFIX))
    if record is None:
        raise ModelError(f"{name}: no such model in the zoo; there are: {', '.join(records)}")
    return ZooEntry(**{field.name: record[field.name] for field in fields(ZooEntry)})


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = json.loads(
        _installed("zoo.json").read_text(encoding="utf-8")
    )
    return records


def _installed(file: str) -> Path:
    found = _FOLDER / file
    if not found.is_file():
        raise ModelError(f"{found}: missing from this installation; install tvm-qnn again")
    return found
