"""Put a trained network into a zoo folder: ONNX file, samples, and a record of the measurement."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tvm_qnn._version import __version__
from tvm_qnn.errors import ModelError
from tvm_qnn.nn import checkpoint, export
from tvm_qnn.nn.check import Agreement, compare
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.notices import NOTICES

SAMPLES = 256


def publish(
    run: Path, data: Images, zoo: Path, name: str, samples: int = SAMPLES
) -> tuple[dict[str, Any], Agreement]:
    """Export the network of a run, measure it on all test images and write its zoo record.

    Writes ``NAME.onnx`` (batch size 1), ``NAME.npz`` (the first test images as uint8 and their
    labels) and the record in ``zoo.json``; other records stay.

    Args:
        run: Output folder of a training run.
        data: The data set that it was trained on.
        zoo: Folder to write to; made if missing.
        name: Name of the model in the zoo.
        samples: Number of test images to put next to the model.

    Returns:
        The record, and how the export agrees with PyTorch.

    Raises:
        ModelError: The checkpoint is missing or damaged, or the export gives other labels than
            PyTorch for more images than the network's description allows.
    """
    net, recipe, rows = checkpoint.load_trained(run / checkpoint.NAME)
    file = zoo / f"{name}.onnx"
    export.save(export.to_onnx(net), file)
    said, agreement = export.describe(net), compare(net, file, data.test_images)
    if len(agreement.different) > said.tolerance * agreement.images:
        file.unlink()
        raise ModelError(
            f"{file}: ONNX Runtime and PyTorch label {len(agreement.different)} of "
            f"{agreement.images} test images differently (image {agreement.different[0]} first); "
            "do not ship this model"
        )
    np.savez_compressed(
        zoo / f"{name}.npz",
        image=data.test_images[:samples],
        labels=data.test_labels[:samples].astype(np.uint8),
    )
    _, channels, height, width = data.test_images.shape
    shape = f"{height}x{width}" + ("x3" if channels == 3 else "")
    record = {
        "name": name,
        "file": file.name,
        "samples_file": f"{name}.npz",
        "task": f"{data.name}: {len(np.unique(data.test_labels))} classes of {shape} images",
        "weights": said.weights,
        "activations": said.activations,
        "description": said.text,
        "test_accuracy": float(np.mean(agreement.runtime_labels == data.test_labels)),
        "test_samples": len(data.test_images),
        **identity(file),
        "source": said.source,
        "recipe": (
            f"tvm-qnn train {said.command} --data DIR --out DIR --epochs {recipe.epochs} "
            f"--seed {recipe.seed} {said.options}"
        ),
        "protocol": (
            f"Network after epoch {len(rows)} of {recipe.epochs}; no epoch is chosen by its "
            f"accuracy. One seed. All {len(data.test_images):,} official test images, one at a "
            "time, ONNX Runtime on the CPU; the largest logit is the label. PyTorch in eval mode "
            f"gives the same label for {_agreeing(agreement)}."
        ),
        "training": {**asdict(recipe), "epochs_done": len(rows)},
        "check": {
            "largest_logit_difference": agreement.largest_difference,
            "smallest_logit_margin": agreement.smallest_margin,
            **said.checks,
        },
        "versions": versions(),
        "data_notice": NOTICES[data.name],
    }
    add_record(zoo, record)
    return record, agreement


def _agreeing(agreement: Agreement) -> str:
    different = len(agreement.different)
    if not different:
        return "every image"
    return (
        f"all but {different} of them, where the order of float sums decides between neighbouring "
        "codes"
    )


def identity(file: Path) -> dict[str, Any]:
    """Return size and checksum of a file, as a record states them."""
    blob = file.read_bytes()
    return {"size_bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}


def versions() -> dict[str, str]:
    """Return the versions of what trains and measures."""
    return {
        "tvm-qnn": __version__,
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def add_record(zoo: Path, record: dict[str, Any]) -> None:
    """Write a record into ``zoo.json`` of a folder; records of other names stay."""
    index = zoo / "zoo.json"
    records = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    records[record["name"]] = record
    index.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
